"""Metrics: what a turn adds to them, what trouble does, and that several processes count together."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatapi import __version__
from chatapi.db.database import Database
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.tracing import Tracing
from tests.support.agents import CommandedAgent
from tests.support.issuer import issuing
from tests.support.metrics import Samples, scrape
from tests.support.postgres import Postgres
from tests.support.proxy import proxy
from tests.support.serving import SECRET, Client, Process, anybody, execute, serve, settings_for, token_for
from tests.support.sse import STREAM

PARTS = ("history_load", "turn_model", "turn_tools", "turn_store")
CHAT = {"method": "POST", "route": "/api/{user_id}/chat"}


@pytest.fixture
def database_file(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}"


@pytest.fixture
async def url(empty_database_url: str) -> AsyncIterator[str]:
    """A service of the test's own, on each database, since the counts of a shared one are everybody's."""
    async with serve(settings_for(empty_database_url)) as found:
        yield found


@pytest.fixture
async def alice(url: str) -> AsyncIterator[Client]:
    async with Client(url, "alice") as client:
        yield client


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1_200):
        if await true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


class TestTurns:
    async def test_are_counted_by_outcome_and_timed_by_part(self, url: str, alice: Client) -> None:
        await alice.said('call add_task {"title": "milk"}\ncall no_such_tool {}\nsay Done.')
        seen = await scrape(url)
        assert seen.get("requests_total", **CHAT, status=200) == 1
        assert seen.get("request_seconds_count", **CHAT) == 1
        assert seen.get("turn_seconds_count", outcome="completed") == 1
        assert seen.get("turn_seconds_sum", outcome="completed") > 0
        assert seen.get("first_token_seconds_count") == 1
        assert {part: seen.get(f"{part}_seconds_count") for part in PARTS} == dict.fromkeys(PARTS, 1)
        parts = [seen.get(f"{part}_seconds_sum") for part in PARTS]
        assert min(parts) > 0
        assert sum(parts) < seen.get("turn_seconds_sum", outcome="completed")
        assert seen.get("tool_calls_total", tool="add_task", outcome="success") == 1
        assert seen.get("tool_calls_total", tool="unknown", outcome="failure") == 1
        assert seen.get("tokens_total", model="commanded", kind="output") == 1

    async def test_that_wait_for_the_model_are_the_model_s_time(self, url: str, alice: Client) -> None:
        await alice.said("sleep 0.3\nsay Good morning.")
        seen = await scrape(url)
        assert seen.get("turn_model_seconds_sum") >= 0.3
        assert seen.get("first_token_seconds_sum") >= 0.3
        assert seen.get("turn_tools_seconds_count") == 0

    async def test_that_fail_are_counted_by_their_error(self, url: str, alice: Client) -> None:
        await alice.chat("fail")
        await alice.chat("crash")
        await alice.chat("silence")
        await alice.chat("say x", 999_999)  # no turn begins
        seen = await scrape(url)
        assert seen.get("turn_seconds_count", outcome="model-failed") == 2
        assert seen.get("turn_seconds_count", outcome="model-empty") == 1
        assert seen.get("turn_model_seconds_count") == 3
        assert seen.get("requests_total", **CHAT, status=502) == 3
        assert seen.get("requests_total", **CHAT, status=404) == 1

    async def test_that_fail_in_a_stream_are_counted_as_others(self, url: str, alice: Client) -> None:
        """Its request is 200 all the same: the error comes in the stream."""
        response = await alice.chat("crash", headers=STREAM)
        assert (response.status_code, '"type":"error"' in response.text) == (200, True)
        seen = await scrape(url)
        assert seen.get("turn_seconds_count", outcome="model-failed") == 1
        assert seen.get("requests_total", **CHAT, status=200) == 1

    async def test_under_way_are_counted_until_they_end(self, url: str, alice: Client) -> None:
        gate = CommandedAgent.gates[url]
        turn = asyncio.create_task(alice.said(f"gate {url}\nsay x"))
        await gate.reached.wait()
        assert (await scrape(url)).get("turns_active") == 1
        gate.opened.set()
        await turn
        assert (await scrape(url)).get("turns_active") == 0

    async def test_goes_on_without_its_stream_when_the_client_hangs_up(self, url: str, alice: Client) -> None:
        gate = CommandedAgent.gates[url]
        body = {"message": f"say One.\ngate {url}\nsay x"}
        async with alice.stream("POST", alice.mine("/chat"), json=body, headers=STREAM):
            await gate.reached.wait()
            assert (await scrape(url)).get("streams_active") == 1

        async def has_none() -> bool:
            return (await scrape(url)).get("streams_active") == 0

        await until(has_none)
        assert (await scrape(url)).get("turns_active") == 1
        gate.opened.set()

    async def test_that_are_replayed_are_not_counted_again(self, url: str, alice: Client) -> None:
        for _ in range(2):
            response = await alice.chat("say x", headers={"Idempotency-Key": "k"})
            assert response.status_code == 200
        seen = await scrape(url)
        assert seen.get("turn_seconds_count", outcome="completed") == 1
        assert seen.get("requests_total", **CHAT, status=200) == 2


class TestDatabase:
    async def test_says_what_of_its_pool_is_in_use(self, empty_database_url: str) -> None:
        metrics = Metrics("1.0", None)
        settings = settings_for(empty_database_url, db_pool_size=1)
        database = Database(settings, Patience(), metrics, Tracing())

        def seen(name: str) -> float:
            return Samples(metrics.render("")[0].decode()).get(f"database_pool_{name}")

        assert seen("size") == 1
        async with database.engine.connect():
            assert (seen("in_use"), seen("wait_seconds_count")) == (1, 1)
            waiting = asyncio.create_task(database.ping())
            await asyncio.sleep(0.5)
            assert not waiting.done()
        await waiting
        assert seen("in_use") == 0
        assert seen("wait_seconds_count") == 2
        assert seen("wait_seconds_sum") >= 0.2
        await database.engine.dispose()
        assert seen("in_use") == 0
        await database.close()

    async def test_says_that_it_is_away_and_that_it_is_back(self, postgres: Postgres) -> None:
        name = await asyncio.to_thread(postgres.new_database)
        async with (
            proxy(postgres.port) as between,
            serve(settings_for(postgres.url(name, port=between.port))) as url,
            Client(url, "alice") as alice,
        ):
            await alice.said("say Hello.")
            between.cut()

            async def breaker(state: int) -> bool:
                await alice.chat("say Hello?")
                return (await scrape(url)).get("database_breaker_open") == state

            await until(lambda: breaker(1))
            assert (await scrape(url)).get("database_retries_total") > 0
            between.heal()
            await until(lambda: breaker(0))

            async def rests() -> bool:  # as it does between two looks at what is running
                return (await scrape(url)).get("database_pool_in_use") == 0

            await until(rests)


async def test_fetches_of_keys_are_counted(database_file: str) -> None:
    async with issuing() as issuer:
        settings = settings_for(database_file, better_auth_url=issuer.url, better_auth_secret=None)
        async with serve(settings) as url, anybody(url) as client:
            issuer.sends("nothing of use", "500 Internal Server Error")
            headers = {"Authorization": f"Bearer {issuer.token()}"}
            assert (await client.get("/api/me", headers=headers)).status_code == 503
            seen = await scrape(url)
            assert seen.get("jwks_fetches_total", outcome="failure") == 1
            assert seen.get("jwks_fetches_total", outcome="success") == 0


async def test_decisions_of_the_limits_are_counted(database_file: str) -> None:
    settings = settings_for(database_file, rate_limit="2/hour", rate_limit_chat="1/hour")
    async with serve(settings) as url, Client(url, "alice") as alice:
        for _ in range(3):
            await alice.chat("say x")
        for _ in range(2):
            await alice.get("/api/me")
        seen = await scrape(url)
    assert seen.get("rate_limit_hits_total", policy="chat", decision="allowed") == 1
    assert seen.get("rate_limit_hits_total", policy="chat", decision="refused") == 2
    assert seen.get("rate_limit_hits_total", policy="default", decision="allowed") == 2


class TestExposition:
    async def test_names_routes_by_template_and_invented_methods_not_at_all(
        self, url: str, alice: Client
    ) -> None:
        for number in range(3):
            await alice.get(alice.mine(f"/tasks/{number}"))
            await alice.get(f"/{number}")
            await alice.request("LINK", "/health")
        seen = await scrape(url)
        assert (
            seen.get("requests_total", method="GET", route="/api/{user_id}/tasks/{task_id}", status=404) == 3
        )
        assert seen.get("requests_total", method="GET", route="unmatched", status=404) == 3
        assert seen.get("requests_total", method="other", route="unmatched", status=405) == 3
        assert all(name.startswith("chatapi_") for name, _ in seen.values)
        assert not any(name.endswith("_created") for name, _ in seen.values)

    async def test_has_a_defect_once_there_was_one(self, empty_database_url: str) -> None:
        async with serve(settings_for(empty_database_url)) as url, Client(url, "alice") as alice:
            assert (await alice.get(alice.mine("/nothing"))).status_code == 404
            assert (await scrape(url)).values["chatapi_defects_total", frozenset()] == 0
            await execute(empty_database_url, "DROP TABLE tasks")
            assert (await alice.get(alice.mine("/tasks"))).status_code == 500
            assert (await scrape(url)).get("defects_total") == 1

    async def test_is_text_or_openmetrics_as_the_scraper_asks(self, url: str) -> None:
        async with anybody(url) as prometheus:
            text = await prometheus.get("/metrics")
            assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
            new = await prometheus.get("/metrics", headers=accept)
            assert new.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert new.text.endswith("# EOF\n")

    async def test_is_not_there_when_it_is_off(self, database_file: str) -> None:
        async with (
            serve(settings_for(database_file, metrics="off")) as url,
            anybody(url) as prometheus,
        ):
            assert (await prometheus.get("/metrics")).status_code == 404

    async def test_asks_for_its_token_and_takes_no_user_s(self, database_file: str) -> None:
        settings = settings_for(database_file, metrics_token="a-token-for-metrics")
        async with serve(settings) as url, anybody(url) as prometheus:
            nothing = await prometheus.get("/metrics")
            assert (nothing.status_code, nothing.headers["www-authenticate"]) == (401, "Bearer")
            for wrong in ("a-token", token_for("alice"), "\u00e9".encode().decode("latin-1")):
                sent = {b"Authorization": f"Bearer {wrong}".encode("latin-1")}
                refused = await prometheus.get("/metrics", headers=sent)
                assert refused.status_code == 401
                assert 'error="invalid_token"' in refused.headers["www-authenticate"]
            await scrape(url, headers={"Authorization": "bearer a-token-for-metrics"})

    async def test_says_what_is_running(self, database_file: str) -> None:
        async with (
            serve(settings_for(database_file, chatapi_build="abc1234")) as url,
            anybody(url) as somebody,
        ):
            health = (await somebody.get("/health")).json()
            assert health["build"] == "abc1234"
            assert (await scrape(url)).get("build_info", version=health["version"], build="abc1234") == 1


@pytest.mark.slow
class TestSeveralWorkers:
    async def test_count_together_and_dead_ones_hold_nothing(
        self, new_database: Callable[[], str], directory: Path
    ) -> None:
        environ = {
            "DATABASE_URL": await asyncio.to_thread(new_database),
            "BETTER_AUTH_SECRET": SECRET,
            "CHAT_MODEL": "tests.support.agents:CommandedAgent",
            "MIGRATE": "auto",
            "TMPDIR": str(directory),
            "RATE_LIMIT": "off",
            "RATE_LIMIT_CHAT": "off",
        }
        async with Process(directory, environ, arguments=("--workers", "2")) as process:
            url = await process.ready()
            await until(lambda: answers(url))
            pids: set[int] = set()
            turns = 0
            while len(pids) < 2:  # each on a connection of its own, which either may take once it has started
                async with Client(url, "alice") as alice:
                    pids.add(int((await alice.said("pid"))["response"]))
                turns += 1
            await until(lambda: requests_counted(url, turns))  # the last one is when its answer has gone out
            for _ in range(5):
                seen = await scrape(url)
                assert seen.get("turn_seconds_count", outcome="completed") == turns
                assert seen.get("turn_seconds_bucket", outcome="completed", le="+Inf") == turns
                assert seen.get("requests_total", **CHAT, status=200) == turns
                assert seen.get("database_pool_size") == 2 * (
                    4 if "sqlite" in environ["DATABASE_URL"] else 15
                )
                assert [labels for name, labels in seen.values if name == "chatapi_build_info"] == [
                    frozenset({("version", __version__), ("build", "")})
                ]

            async with Client(url, "bob") as one, Client(url, "carol") as other:
                stuck = [asyncio.create_task(each.chat("gate never")) for each in (one, other)]
                await until(lambda: turns_active(url, 2))
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                await asyncio.gather(*stuck, return_exceptions=True)
            await until(lambda: answers(url))
            await until(lambda: turns_active(url, 0))
            assert (await scrape(url)).get("turn_seconds_count", outcome="completed") == turns

            process.terminate()
            assert await process.wait() == 0
        left = await asyncio.to_thread(lambda: list(directory.glob("chatapi-metrics-*")))
        assert left == []


async def answers(url: str) -> bool:
    try:
        async with anybody(url) as somebody:
            return (await somebody.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def requests_counted(url: str, count: int) -> bool:
    return (await scrape(url)).get("requests_total", **CHAT, status=200) == count


async def turns_active(url: str, count: int) -> bool:
    try:
        return (await scrape(url)).get("turns_active") == count
    except httpx.TransportError:
        return False


def test_the_documented_metrics_are_those_that_there_are() -> None:
    document = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(chatapi_\w+)` \|([^|]*)\|", document, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    collectors: Iterable[Any] = Metrics("1.0", None)._registry._collector_to_names
    there_are = {
        metric.name + ("_total" if metric.type == "counter" else ""): set(collector._labelnames)
        for collector in collectors
        for metric in collector.describe()
    }
    assert documented == there_are
