"""The alerts fire in the trouble that they are for, and the dashboard shows what there is."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chatapi.agent.ports import AgentEvent, Prompt, Tools
from chatapi.errors.models import ModelMisconfigured
from tests.support.issuer import SigningKey
from tests.support.metrics import Samples, scrape
from tests.support.postgres import Postgres, free_port
from tests.support.prometheus import Prometheus, hurried, installed, scraping
from tests.support.proxy import proxy
from tests.support.serving import REPOSITORY, Client, execute, serve, settings_for

pytestmark = pytest.mark.slow

ALERTS = REPOSITORY / "deploy/prometheus/alerts.yml"
DASHBOARD = REPOSITORY / "deploy/grafana/chatapi.json"
NAMES = set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
OF_PROMETHEUS = {"job", "instance"}

with_prometheus = pytest.mark.skipif(not installed(), reason="needs Debian's package prometheus")


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row")


def expressions() -> Iterator[str]:
    """All that is asked of Prometheus."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]
    for block in re.findall(r"expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", ALERTS.read_text()):
        yield "".join(block)


class MisconfiguredAgent:
    """As a provider with another key."""

    model = "misconfigured"

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        raise ModelMisconfigured("The model's provider refused the service's request.")
        yield


async def test_what_is_asked_for_is_there(tmp_path: Path) -> None:
    """Each metric by its name, and each label that it is told apart by."""
    async with (
        serve(settings_for(f"sqlite:///{tmp_path / 'chatapi.db'}")) as url,
        Client(url, "alice") as alice,
    ):
        await alice.said('call add_task {"title": "milk"}')
        seen = await scrape(url)
    asked = 0
    for expression in expressions():
        names = re.findall(r"\bchatapi_\w+", expression)
        assert names or "up{" in expression, expression
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            labels |= {label.strip() for label in grouped.split(",")}
        for name in names:
            assert name in seen.labels, expression
            assert labels - OF_PROMETHEUS <= labels_of(seen, names), expression
            asked += 1
    assert asked > 40


def labels_of(seen: Samples, names: list[str]) -> set[str]:
    return set().union(*(seen.labels[name] for name in names))


def test_each_panel_names_its_series_by_labels_that_it_keeps() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_each_alert_is_explained() -> None:
    document = (REPOSITORY / "docs/observability.md").read_text()
    assert set(re.findall(r"^\| `(Chatapi\w+)` \|", document, re.MULTILINE)) == NAMES


@with_prometheus
def test_rules_are_right_by_their_numbers() -> None:
    result = subprocess.run(
        ["promtool", "test", "rules", str(ALERTS.with_name("alerts_test.yml"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    tested = ALERTS.with_name("alerts_test.yml").read_text()
    for name in NAMES:
        assert len(re.findall(rf"alertname: {name}\b", tested)) >= 2, name


@with_prometheus
def test_the_job_for_kubernetes_is_one(tmp_path: Path) -> None:
    """But for its first lines: Debian's Prometheus is built without Kubernetes."""
    text = ALERTS.with_name("kubernetes.yml").read_text()
    finds, elsewhere = (
        "kubernetes_sd_configs:\n      - role: pod\n",
        "static_configs: [{targets: [a:8000]}]\n",
    )
    assert finds in text
    job = tmp_path / "prometheus.yml"
    job.write_text(text.replace(finds, elsewhere))
    result = subprocess.run(
        ["promtool", "check", "config", str(job)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@asynccontextmanager
async def again_and_again(*doing: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    async def repeat(each: Callable[[], Awaitable[Any]]) -> None:
        while True:
            with suppress(httpx.TransportError):
                await each()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(repeat(each)) for each in doing]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def slow_database(postgres: Postgres) -> AsyncIterator[str]:
    """So far away that each round trip takes over a quarter of a second, with one connection for two users."""
    name = await asyncio.to_thread(postgres.new_database)
    async with AsyncExitStack() as stack:
        between = await stack.enter_async_context(proxy(postgres.port))
        settings = settings_for(
            postgres.url(name, port=between.port), db_pool_size=1, rate_limit_chat="100000/hour"
        )
        url = await stack.enter_async_context(serve(settings))
        users = [await stack.enter_async_context(Client(url, f"user-{number}")) for number in range(2)]
        await users[0].said('call add_task {"title": "milk"}')
        between.delay = 0.27
        say = [lambda user=user: user.chat("say x") for user in users]
        await stack.enter_async_context(again_and_again(*say))
        yield url


@asynccontextmanager
async def lost_database(postgres: Postgres) -> AsyncIterator[str]:
    name = await asyncio.to_thread(postgres.new_database)
    async with (
        proxy(postgres.port) as between,
        serve(settings_for(postgres.url(name, port=between.port))) as url,
        Client(url, "alice") as alice,
    ):
        await alice.said("say Hello.")
        between.cut()
        async with again_and_again(lambda: alice.get(alice.mine("/tasks"))):
            yield url


async def ask_for_tasks(url: str) -> None:
    """As somebody whom no limit has refused yet."""
    async with Client(url, uuid4().hex) as user:
        await user.get(user.mine("/tasks"))


@asynccontextmanager
async def misconfigured(directory: Path) -> AsyncIterator[str]:
    """A model that refuses, a sign-in service that is away, a table that is gone, and a user who asks too much."""
    database_url = f"sqlite+aiosqlite:///{directory / 'chatapi.db'}"
    away = f"http://127.0.0.1:{free_port()}"
    settings = settings_for(
        database_url, better_auth_url=away, rate_limit="20/hour", rate_limit_chat="100000/hour"
    )
    foreign = {"Authorization": f"Bearer {SigningKey('EdDSA').token(sub='eve', iss=away, aud=away)}"}
    async with (
        serve(settings, MisconfiguredAgent()) as url,
        Client(url, "alice") as alice,
        Client(url, "bob") as bob,
    ):
        await execute(database_url, "DROP TABLE tasks")
        async with again_and_again(
            lambda: alice.chat("Hello"),
            lambda: ask_for_tasks(url),
            lambda: bob.get("/api/me"),
            lambda: bob.get("/api/me", headers=foreign),
        ):
            yield url


async def fired(prometheus: Prometheus, expected: set[str]) -> set[str]:
    """What has fired by the time that all those expected have, or that it is hopeless."""
    found: set[str] = set()
    for _ in range(400):
        found |= await prometheus.firing()
        if found >= expected:
            break
        await asyncio.sleep(0.25)
    return found


async def shown(prometheus: Prometheus, expression: str) -> bool:
    """Whether there is something to draw; a scrape that came late leaves a moment with nothing."""
    for _ in range(200):
        if (await prometheus.get("query", query=expression))["result"]:
            return True
        await asyncio.sleep(0.1)
    return False


@with_prometheus
class TestInATimeThatPassesAHundredTimesAsFast:
    """Each alert fires but `ChatapiTurnsSlow`, for which a turn would have to take 20 s of the world's."""

    async def test_a_slow_database_is_told_and_the_dashboard_shows_it(
        self, postgres: Postgres, tmp_path: Path
    ) -> None:
        expected = {"ChatapiPoolWait", "ChatapiHistorySlow"}
        async with (
            slow_database(postgres) as slow,
            scraping(tmp_path, ALERTS.read_text(), slow) as prometheus,
        ):
            assert await fired(prometheus, expected) >= expected
            for panel in panels():
                for target in panel["targets"]:
                    expression = target["expr"].replace("$job", "chatapi")
                    expression = expression.replace("$__rate_interval", "5s")
                    assert await shown(prometheus, expression), panel["title"]

    async def test_what_is_away_or_wrong_is_told(self, postgres: Postgres, tmp_path: Path) -> None:
        nobody = f"http://127.0.0.1:{free_port()}"
        expected = NAMES - {"ChatapiPoolWait", "ChatapiHistorySlow", "ChatapiTurnsSlow"}
        async with (
            lost_database(postgres) as lost,
            misconfigured(tmp_path) as wrong,
            scraping(tmp_path, ALERTS.read_text(), lost, wrong, nobody) as prometheus,
        ):
            assert await fired(prometheus, expected) >= expected


def test_a_minute_is_half_a_second_for_the_hurried() -> None:
    assert hurried('rate(x{a="5m"}[5m]) for: 1m') == ('rate(x{a="5m"}[3000ms]) for: 500ms')
