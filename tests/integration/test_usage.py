"""What users have used: counted however a turn ends, told, held against budgets, exported and erased."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chatapi.agent.ports import ModelUsage
from chatapi.budgets import window_of
from chatapi.db.models import now
from chatapi.patience import Patience
from chatapi.services import Services
from tests.support.agents import CommandedAgent
from tests.support.metrics import scrape
from tests.support.serving import (
    Client,
    command,
    execute,
    serve,
    settings_for,
)
from tests.support.sse import STREAM

PRICES = json.dumps(
    {
        "m": {"input": 0.15, "cached_input": 0.05, "output": 1},
        "commanded": {"input": 1, "output": 1},
        "openai:local": {"input": 1, "output": 10},
    }
)
USE = 'use {"model": "m", "input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 1}'
COST = 0.0000021  # 6 at 0.15, 4 at 0.05, 1 at 1 dollar a million
UNPRICED = 'use {"model": "unheard-of", "input_tokens": 5, "output_tokens": 5}'


@pytest.fixture(scope="module")
async def priced(database_url: str) -> AsyncIterator[str]:
    """A service on each database."""
    async with serve(settings_for(database_url, model_prices=PRICES)) as url:
        yield url


@pytest.fixture
async def alice(priced: str) -> AsyncIterator[Client]:
    async with Client(priced, f"alice-{uuid4().hex}") as client:
        yield client


async def usage(client: Client, **query: Any) -> dict[str, Any]:
    response = await client.get(client.mine("/usage"), params=query)
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def amounts(turns: int, input_: int, cached: int, output: int, cost: float | None) -> dict[str, Any]:
    return {
        "turns": turns,
        "input_tokens": input_,
        "cached_input_tokens": cached,
        "output_tokens": output,
        "cost": None if cost is None else pytest.approx(cost, rel=1e-12),
    }


def own(times: int, input_: int = 0) -> float:
    """What the agent says at its end: the history, and one word."""
    return (times + input_) / 1_000_000


class TestCounting:
    async def test_is_done_however_a_turn_ends(self, alice: Client) -> None:
        today = now().date().isoformat()
        answered = await alice.said(f"{USE}\n{USE}\nsay One.")
        first = answered["conversation_id"]
        used = {"input_tokens": 20, "output_tokens": 3, "cached_input_tokens": 8}
        assert answered["usage"] == {**used, "cost": pytest.approx(2 * COST + own(1), rel=1e-12)}
        (_, told) = await alice.messages(first, format="ui")
        assert told["metadata"]["usage"] == answered["usage"]
        assert (await alice.chat(f"{USE}\nfail")).status_code == 502
        gate = uuid4().hex
        streaming = asyncio.create_task(alice.chat(f"{USE}\nsay Half.\ngate {gate}", headers=STREAM))
        await CommandedAgent.gates[gate].reached.wait()
        (running,) = (await alice.get(alice.mine("/conversations"), params={"limit": 1})).json()["items"]
        (asked,) = await alice.messages(running["id"])
        assert (await alice.post(alice.mine(f"/turns/{asked['turn_id']}/cancel"))).status_code == 202
        assert '"abort"' in (await streaming).text
        by_conversation = await usage(alice, by="conversation")
        assert by_conversation["items"][0] == {
            "conversation_id": first,
            **amounts(1, 20, 8, 3, 2 * COST + own(1)),
        }
        assert [item["turns"] for item in by_conversation["items"]] == [1, 1, 1]
        total = amounts(3, 40, 16, 5, 4 * COST + own(1))
        assert await usage(alice) == {"items": [{"day": today, **total}], "total": total}
        assert (await usage(alice, by="model"))["items"] == [
            {"model": "commanded", **amounts(0, 0, 0, 1, own(1))},
            {"model": "m", **amounts(3, 40, 16, 4, 4 * COST)},
        ]
        # An answer without a price makes its sums null, and no others.
        assert "cost" not in (await alice.said(f"{UNPRICED}\n{USE}\nsay Two."))["usage"]
        items = (await usage(alice, by="model"))["items"]
        assert [item["cost"] is None for item in items] == [False, False, True]
        assert (await usage(alice))["total"]["cost"] is None

    async def test_stays_when_conversations_go(self, alice: Client, database_url: str) -> None:
        """Also of a turn under way in one."""
        gate, kept = uuid4().hex, await alice.said(f"{USE}\nsay One.")
        streaming = asyncio.create_task(alice.chat(f"{USE}\nsay Half.\ngate {gate}", kept["conversation_id"]))
        await CommandedAgent.gates[gate].reached.wait()
        await alice.delete(alice.mine(f"/conversations/{kept['conversation_id']}"))
        CommandedAgent.gates[gate].opened.set()
        assert (await streaming).json()["type"].endswith("turn-cancelled")
        report = await usage(alice, by="conversation")
        assert report["items"] == [
            {"conversation_id": kept["conversation_id"], **amounts(2, 22, 8, 4, 2 * COST + own(2, 2))}
        ]
        await execute(
            database_url, "UPDATE usage_days SET day = '2024-02-29' WHERE user_id = :u", u=alice.user_id
        )
        assert (await usage(alice))["items"] == []
        old = await usage(alice, **{"from": "2024-02-28", "to": "2024-02-29"})
        assert old["total"]["turns"] == 2

    async def test_leaves_with_the_user_and_does_not_come_back(self, alice: Client) -> None:
        await alice.said(f"{USE}\nsay One.")
        exported = await alice.get(alice.mine("/export"))
        records = [json.loads(line) for line in exported.text.splitlines()]
        kinds = {"usage_day": "model", "usage_conversation": "conversation_id"}
        for kind, key in kinds.items():
            (found, *_) = [
                record for record in records if record["record"] == kind and record[key] != "commanded"
            ]
            assert {"day", key, "turns", "input_tokens", "cost_picodollars", "unpriced"} <= found.keys()
        gate = uuid4().hex
        running = asyncio.create_task(alice.chat(f"{USE}\nsay Half.\ngate {gate}"))
        await CommandedAgent.gates[gate].reached.wait()
        assert (await alice.delete(alice.mine("/"), params={"confirm": alice.user_id})).status_code == 204
        await alice.said("say Anew.")  # which makes the user again
        CommandedAgent.gates[gate].opened.set()
        assert (await running).status_code == 409
        assert (await usage(alice))["total"] == amounts(1, 0, 0, 1, own(1))

    async def test_of_a_turn_that_waits_is_there_meanwhile_and_once(self, database_url: str) -> None:
        settings = settings_for(database_url, model_prices=PRICES, tool_approval="all")
        async with serve(settings) as url, Client(url, uuid4().hex) as alice:
            ask = f'{USE}\nask add_task {{"title": "milk"}}\nwait\n{USE}\nsay Done.'
            waiting = (await alice.chat(ask)).json()
            assert (await usage(alice))["total"] == amounts(1, 10, 4, 1, COST)
            answered = await alice.post(
                alice.mine(f"/turns/{waiting['turn_id']}/answers"),
                json={"answers": [{"id": waiting["pending"][0]["id"], "approved": True}]},
            )
            assert answered.json()["usage"] == {
                "input_tokens": 20,
                "output_tokens": 3,
                "cached_input_tokens": 8,
                "cost": pytest.approx(2 * COST + own(1), rel=1e-12),
            }
            assert (await usage(alice))["total"] == amounts(1, 20, 8, 3, 2 * COST + own(1))

    async def test_adds_up_when_turns_end_at_the_same_time(self, alice: Client) -> None:
        gate = uuid4().hex
        running = [asyncio.create_task(alice.chat(f"{USE}\nsay Half.\ngate {gate}")) for _ in range(20)]
        while CommandedAgent.gates[gate].waiting < 20:  # noqa: ASYNC110 - the gate counts, and tells nobody
            await asyncio.sleep(0.01)
        CommandedAgent.gates[gate].opened.set()
        assert {response.status_code for response in await asyncio.gather(*running)} == {200}
        assert (await usage(alice))["total"] == amounts(20, 200, 80, 40, 20 * COST + own(20))

    async def test_a_request_outside_a_turn_counts_too(self, database_url: str, alice: Client) -> None:
        answer = await alice.said("say Hello.")
        services = Services.of(settings_for(database_url, model_prices=PRICES), Patience(), CommandedAgent())
        # A server may say anything.
        used = ModelUsage(model="m", input_tokens=10**30, output_tokens=-1)
        unstorable = ModelUsage(model="\0\ud800", input_tokens=0, output_tokens=0)
        await services.meter.count(alice.user_id, answer["conversation_id"], used)
        await services.meter.count(alice.user_id, answer["conversation_id"], unstorable)
        await services.meter.count(uuid4().hex, 1, used)  # of a user who is gone
        await services.database.close()
        report = await usage(alice, by="conversation")
        assert report["items"] == [
            {
                "conversation_id": answer["conversation_id"],
                **amounts(1, 10**8, 0, 1, None),
            }
        ]
        costs = {item["model"]: item["cost"] for item in (await usage(alice, by="model"))["items"]}
        assert costs == {"m": 15, "commanded": own(1), "?": None}


class TestReports:
    @pytest.mark.parametrize(
        "query",
        [
            {"from": "2026-11-30", "to": "2026-11-01"},
            {"from": "2025-01-01", "to": "2026-01-02"},
            {"from": "2020-01-01"},
            {"from": "yesterday"},
            {"to": "2026-02-30"},
            {"by": "user"},
        ],
        ids=str,
    )
    async def test_of_ranges_that_cannot_be_are_422(self, alice: Client, query: dict[str, str]) -> None:
        response = await alice.get(alice.mine("/usage"), params=query)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["path"] in {"from", "to", "by"}

    async def test_of_a_year_or_at_the_ends_of_time(self, alice: Client) -> None:
        for range_ in (
            {"from": "2024-01-01", "to": "2024-12-31"},
            {"to": "0001-01-01"},
            {"from": "9999-12-31"},
        ):
            assert (await usage(alice, **range_))["items"] == []

    @pytest.mark.slow
    async def test_are_there_for_operators(self, alice: Client, database_url: str, directory: Path) -> None:
        answer = await alice.said(f"{USE}\nsay One.")
        await alice.said(f"{UNPRICED}\nsay Two.")
        run = await asyncio.to_thread(
            command, directory, database_url, "usage", "--user", alice.user_id, "--by", "model"
        )
        assert run.stdout.splitlines() == [
            "model\tturns\tinput_tokens\tcached_input_tokens\toutput_tokens\tcost",
            "commanded\t0\t0\t0\t2\t0.000002",
            "m\t1\t10\t4\t1\t0.0000021",
            "unheard-of\t1\t5\t0\t5\t-",
            "total\t2\t15\t4\t8\t-",
        ], run.stderr
        everyone = await asyncio.to_thread(command, directory, database_url, "usage")
        assert f"{alice.user_id}\t2\t15\t4\t8\t-" in everyone.stdout
        wrong = await asyncio.to_thread(
            command, directory, database_url, "usage", "--from", "2026-02-01", "--to", "2026-01-01"
        )
        assert (wrong.returncode, wrong.stderr) == (1, "chatapi: from: is after `to`\n")
        assert answer["turn_id"]


class TestBudgets:
    async def test_end_with_429_and_say_what_is_left(self, database_url: str) -> None:
        settings = settings_for(
            database_url, model_prices=PRICES, budget_tokens="40/day,1000000/month", budget_cost="0.001/month"
        )
        async with serve(settings) as url, Client(url, uuid4().hex) as alice, Client(url, uuid4().hex) as bob:
            use = 'use {"model": "m", "input_tokens": 20, "output_tokens": 4}'
            first = await alice.chat(f"{use}\nsay One.", headers={"Idempotency-Key": "k"})
            at = datetime.now(UTC)
            assert first.headers["RateLimit-Policy"] == (
                '"chat";q=60;w=60, "tokens-day";q=40;qu="tokens";w=86400, '
                f'"tokens-month";q=1000000;qu="tokens";w={seconds_of_month(at)}, '
                f'"cost-month";q=1000;qu="microdollars";w={seconds_of_month(at)}'
            )
            conversation_id = first.json()["conversation_id"]
            # Turns that were under way when it was used up come to their end.
            gate = uuid4().hex
            under_way = asyncio.create_task(alice.chat(f"gate {gate}\n{use}\nsay Two."))
            await CommandedAgent.gates[gate].reached.wait()
            failed = await alice.chat(f"{use}\nfail", conversation_id, headers={"Idempotency-Key": "f"})
            assert '"tokens-day";r=15;' in failed.headers["RateLimit"]
            assert '"cost-month";r=992;' in failed.headers["RateLimit"]
            CommandedAgent.gates[gate].opened.set()
            assert (await under_way).json()["response"] == "Two."

            for refused in (
                await alice.chat("say Three."),
                await alice.chat("say Three.", conversation_id),
                await alice.chat("say Three.", headers=STREAM),
                await alice.chat(f"{use}\nfail", conversation_id, headers={"Idempotency-Key": "f"}),
                await alice.post(alice.mine(f"/turns/{failed.json()['turn_id']}/regenerate")),
            ):
                problem = refused.json()
                assert (refused.status_code, problem["type"]) == (429, "urn:chatapi:problem:budget-exceeded")
                assert problem["policy"] == "tokens-day"
                seconds = (window_of("day", at)[1] - datetime.now(UTC)).total_seconds()
                assert 0 <= problem["retry_after"] - seconds < 60
                assert f'"tokens-day";r=0;t={problem["retry_after"]}' in refused.headers["RateLimit"]
            again = await alice.chat(f"{use}\nsay One.", headers={"Idempotency-Key": "k"})
            assert again.content == first.content
            assert "tokens-day" not in again.headers.get("RateLimit", "")
            assert (await alice.get(alice.mine("/conversations"))).status_code == 200
            await bob.said("say Hello.")
            seen = await scrape(url)
            assert seen.get("budgets_refused_total", policy="tokens-day") == 5
            assert seen.get("tokens_total", model="m", kind="input") == 60
            assert seen.get("cost_dollars_total", model="m") == pytest.approx(0.000021)

            # A new day begins, but the month's dollars are spent.
            await execute(
                database_url,
                f"UPDATE usage_days SET day = '{at.date().replace(day=1)}', cost_picodollars = 1000000000 "
                "WHERE user_id = :u AND model = 'm'",
                u=alice.user_id,
            )
            refused = await alice.chat("say Three.")
            assert refused.json()["policy"] in {"cost-month"} | ({"tokens-day"} if at.day == 1 else set())


def seconds_of_month(at: datetime) -> int:
    first, end = window_of("month", at)
    return (end.date() - first).days * 86_400
