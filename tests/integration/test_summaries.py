"""Summaries of long conversations: made once, in the background, in time, and of nobody else's words."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from chatapi.agent.loading import load_agent
from chatapi.agent.ports import Aside, SummaryMessage, Usage
from chatapi.db.models import Message, Summary, Turn, now
from chatapi.db.owner import EVERYONE
from chatapi.errors.models import ModelFailed
from chatapi.turns.store.summaries import LOOKED_FOR
from chatapi.turns.summaries import INSTRUCTIONS
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.metrics import scrape
from tests.support.postgres import Postgres
from tests.support.providers.brain import Asked, Brain, Reply, Text
from tests.support.providers.server import serve_providers
from tests.support.serving import SECRET, SLOW_MACHINE, Client, Process, execute, serve, settings_for
from tests.support.sse import streamed
from tests.support.statements import sent_for_requests

LONG_AGO = "2026-01-01 00:00:00.000000"


class SummingAgent(CommandedAgent):
    """Its model's summary waits for its gate, and has all that was said on a line that begins with `fact`.

    `answers` are given first, in the place of summaries.
    """

    def __init__(self, *answers: str) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.answers = list(answers)

    async def ask(self, instructions: str, message: str) -> Aside:
        assert instructions == INSTRUCTIONS
        self.asked.append(json.loads(message))
        self.begun.set()
        await self.gate.wait()
        usage = Usage(input_tokens=70, output_tokens=30)
        if self.answers:
            answer = self.answers.pop(0)
            if answer == "fail":
                raise ModelFailed("No summary today.")
            return Aside(text=answer, model="summer", usage=usage)
        before = self.asked[-1].get("summary", "").splitlines()
        said = [line for turn in self.asked[-1]["turns"] for line in turn["user"].splitlines()]
        facts = "\n".join([*before, *(line for line in said if line.startswith("fact "))])
        return Aside(text=f"Here: <summary>{facts or 'Chatter.'}</summary>", model="summer", usage=usage)

    def about(self, client: Client) -> list[dict[str, Any]]:
        """What it was asked about this user's conversations; those of other tests are in the same database."""
        return [each for each in self.asked if client.user_id in json.dumps(each)]


@asynccontextmanager
async def summing(
    database_url: str,
    agent: CommandedAgent,
    *,
    limit: int = 10,
    patience: dict[str, float] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[str, Client]]:
    settings = {"chat_history_limit": limit, "compact": "auto", **settings}
    async with (
        serve(
            settings_for(database_url, **settings), agent, replace(SLOW_MACHINE, **(patience or {}))
        ) as url,
        Client(url, f"summing-{uuid4().hex}") as client,
    ):
        yield url, client


async def say(client: Client, *messages: str, conversation_id: int | None = None) -> int:
    for message in messages:
        conversation_id = (await client.said(message, conversation_id))["conversation_id"]
    assert conversation_id is not None
    return conversation_id


async def conversation(client: Client, conversation_id: int) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(client.mine(f"/conversations/{conversation_id}"))).json()
    return found


async def until_summed_up(client: Client, conversation_id: int, turn_id: int) -> None:
    for _ in range(200):
        if (await conversation(client, conversation_id))["summarized_until"] == turn_id:
            return
        await asyncio.sleep(0.05)
    assert (await conversation(client, conversation_id))["summarized_until"] == turn_id


async def compact(client: Client, conversation_id: int, status: int = 202) -> dict[str, Any]:
    response = await client.post(client.mine(f"/conversations/{conversation_id}/compact"))
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


async def turns_of(client: Client, conversation_id: int, **query: str) -> list[int]:
    messages = await client.messages(conversation_id, limit=100, **query)
    return list(dict.fromkeys(each["turn_id"] for each in messages))


def shown(client: Client) -> tuple[str, list[str]]:
    """The summary that the model was shown with the user's last message, and the messages of the user's after it."""
    prompt = next(each for each in reversed(CommandedAgent.seen) if each.user_id == client.user_id)
    roles = [each.role for each in prompt.history]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    said = [each.content for each in prompt.history if each.role == "user"]
    if prompt.history and isinstance(prompt.history[0], SummaryMessage):
        return said[0], said[1:]
    return "", said


async def open_rows(database_url: str, client: Client) -> list[tuple[int, bool]]:
    """The failures of each of the user's summaries that is to be made, and whether it is due only later."""
    database = open_database(settings_for(database_url))
    async with database.transaction(EVERYONE) as session:
        rows = await session.execute(
            select(Summary.failures, Summary.due_at).where(
                Summary.user_id == client.user_id, Summary.content.is_(None)
            )
        )
        found = [(failures, due_at is not None and due_at > now()) for failures, due_at in rows]
    await database.close()
    return found


async def make_due(database_url: str, client: Client) -> None:
    """As after a death and its lease, or after the pause that follows a failure."""
    await execute(
        database_url,
        f"UPDATE summaries SET due_at = '{LONG_AGO}' WHERE content IS NULL AND user_id = :user_id",
        user_id=client.user_id,
    )


def of_summaries(statement: str) -> bool:
    """Whether it looks for summaries alone; a turn's beginning reads them, too."""
    return "FROM summaries" in statement and "INSERT" not in statement


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(600):
        if await condition():
            return
        await asyncio.sleep(0.03)
    raise AssertionError("it does not come to this")


class TestSummary:
    async def test_is_there_before_the_window_falls_and_nothing_is_unknown(self, database_url: str) -> None:
        """With a window of five turns. Each extends the one before it, is made by one request, and is counted."""
        agent = SummingAgent()
        async with summing(database_url, agent) as (url, client):
            mine: int | None = None
            turns, until, made = list[int](), 0, 0
            for number in range(14):
                answer = await client.said(f"fact {number}", mine)
                mine = answer["conversation_id"]
                summary, rest = shown(client)
                assert [line for line in summary.splitlines() if line.startswith("fact ")] + rest == [
                    f"fact {each}" for each in range(number)
                ]
                assert len(rest) <= 5
                turns.append(answer["turn_id"])
                if mine is not None and sum(turn > until for turn in turns) == 4:
                    made, until = made + 1, turns[-3]
                    await until_summed_up(client, mine, until)
            assert len(agent.asked) == made == 6
            assert ["summary" in each for each in agent.asked] == [False] + [True] * 5
            assert mine is not None
            assert len(await turns_of(client, mine)) == 14  # no message is changed
            used = (await client.get(client.mine("/usage"), params={"by": "model"})).json()["items"]
            assert {item["model"]: item["input_tokens"] for item in used}["summer"] == 70 * made
            assert (await scrape(url)).get("tokens_total", model="summer", kind="output") == 30 * made

    async def test_that_is_late_lets_the_window_fall_and_covers_the_gap_then(self, database_url: str) -> None:
        agent = SummingAgent()
        agent.gate.clear()
        async with summing(database_url, agent) as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(4)))
            await agent.begun.wait()
            await say(client, *(f"fact {number}" for number in range(4, 7)), conversation_id=mine)
            assert shown(client) == ("", ["fact 3", "fact 4", "fact 5"])
            assert len(agent.asked) == 1
            agent.gate.set()
            turns = await turns_of(client, mine)
            await until_summed_up(client, mine, turns[1])
            await say(client, "fact 7", conversation_id=mine)
            assert shown(client)[1] == ["fact 3", "fact 4", "fact 5", "fact 6"]
            await until_summed_up(client, mine, turns[5])
            await say(client, "say 8", conversation_id=mine)
            summary, rest = shown(client)
            assert "\n".join(f"fact {each}" for each in range(6)) in summary
            assert rest == ["fact 6", "fact 7"]

    async def test_that_is_none_changes_nothing_but_when_the_next_is_tried(self, database_url: str) -> None:
        bad = [
            "",
            "What would you like me to do?",
            f"<summary>{'fact ' * 10_000}</summary>",
            "<summary>fact 0 and",
            "<summary> </summary>",
            "fail",
        ]
        agent = SummingAgent(*bad)
        async with summing(database_url, agent, patience={"summaries": 0.02}) as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(4)))
            for tried in range(1, len(bad) + 1):
                await becomes(partial(rows_are, database_url, client, [(tried, True)]))
                if tried % 2:
                    await say(client, "say on", conversation_id=mine)  # which is no reason to try now
                    assert len(agent.asked) == tried
                    assert "summary" not in shown(client)[0]
                await make_due(database_url, client)
                if tried >= LOOKED_FOR:  # nobody looks for it any more, but at the end of a turn
                    await say(client, "say on", conversation_id=mine)
            await becomes(lambda: is_summed_up(client, mine))
            assert len(agent.asked) == len(bad) + 1
            used = (await client.get(client.mine("/usage"), params={"by": "model"})).json()["items"]
            assert {item["model"]: item["input_tokens"] for item in used}["summer"] == 70 * len(bad)

    async def test_that_has_failed_for_months_is_put_off_by_an_hour(self, database_url: str) -> None:
        agent = SummingAgent("", "")
        async with summing(database_url, agent) as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(4)))
            await becomes(partial(rows_are, database_url, client, [(1, True)]))
            await execute(
                database_url,
                "UPDATE summaries SET failures = 2000 WHERE user_id = :user_id",
                user_id=client.user_id,
            )
            await make_due(database_url, client)
            await say(client, "say on", conversation_id=mine)
            await becomes(partial(rows_are, database_url, client, [(2001, True)]))

    async def test_that_has_just_failed_costs_a_turn_one_select(self, postgres: Postgres) -> None:
        """Which is sent when the turn has ended."""
        url = postgres.url(await asyncio.to_thread(postgres.new_database))
        with sent_for_requests(and_beside_them=True) as sent:
            async with summing(url, SummingAgent("")) as (_, client):
                mine = await say(client, *(f"fact {number}" for number in range(4)))
                await becomes(partial(rows_are, url, client, [(1, True)]))
                sent.clear()
                await say(client, "say on", conversation_id=mine)
                await becomes(partial(is_true_of, lambda: any(map(of_summaries, sent))))
                await asyncio.sleep(0.05)
                assert len(list(filter(of_summaries, sent))) == 1
                assert not [each for each in sent if each.startswith(("BEGIN", "COMMIT"))]

    async def test_of_several_processes_is_made_by_one(self, database_url: str) -> None:
        """A dead one's is taken over after its lease, by one of those that look; it then changes nothing any more."""
        dead, *others = agents = [SummingAgent() for _ in range(3)]
        for agent in agents:
            agent.gate.clear()
        async with (
            summing(database_url, dead) as (_, client),
            summing(database_url, others[0], patience={"summaries": 0.02}),
            summing(database_url, others[1], patience={"summaries": 0.02}),
        ):
            mine = await say(client, *(f"fact {number} {client.user_id}" for number in range(4)))
            await dead.begun.wait()
            turns = await turns_of(client, mine)
            await make_due(database_url, client)
            await becomes(partial(is_true_of, lambda: any(agent.about(client) for agent in others)))
            await asyncio.sleep(0.1)
            assert sum(len(agent.about(client)) for agent in agents) == 2
            dead.answers.append("<summary>Late.</summary>")
            dead.gate.set()
            await becomes(partial(is_true_of, lambda: not dead.answers))
            assert (await conversation(client, mine))["summarized_until"] is None
            for agent in others:
                agent.gate.set()
            await until_summed_up(client, mine, turns[1])
            await say(client, "say Hello.", conversation_id=mine)
            assert "fact 0" in shown(client)[0]

    async def test_is_gone_with_its_conversation(self, database_url: str) -> None:
        agent = SummingAgent()
        agent.gate.clear()
        async with summing(database_url, agent) as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(4)))
            await agent.begun.wait()
            await client.delete(client.mine(f"/conversations/{mine}"))
            agent.gate.set()
            other = await say(client, *(f"fact {number}" for number in range(4)))
            await becomes(lambda: is_summed_up(client, other))
            assert await open_rows(database_url, client) == []
            exported = (await client.get(client.mine("/export"))).text
            (record,) = [
                line for line in map(json.loads, exported.splitlines()) if line["record"] == "summary"
            ]
            turns = await turns_of(client, other)
            assert (record["conversation_id"], record["turn_id"]) == (other, turns[1])
            assert (record["content"], record["model"]) == ("fact 0\nfact 1", "summer")
            erased = await client.delete(f"/api/{client.user_id}", params={"confirm": client.user_id})
            assert erased.is_success
            assert "fact" not in (await client.get(client.mine("/export"))).text

    async def test_is_not_made_when_the_budget_is_used_up(self, database_url: str) -> None:
        agent = SummingAgent()
        async with summing(database_url, agent, budget_tokens="1000/day") as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(3)))
            used = 'use {"input_tokens": 5000, "output_tokens": 1}\nsay on'
            assert (await client.said(used, mine))["response"] == "on"
            await becomes(lambda: rows_are(database_url, client, [(0, True)]))
            assert not agent.asked
            await execute(
                database_url,
                "DELETE FROM summaries WHERE user_id = :user_id",
                user_id=client.user_id,
            )
            assert (await compact(client, mine, 429))["type"].endswith("budget-exceeded")


class TestCompact:
    async def test_sums_up_all_but_the_last_turn_once(self, database_url: str) -> None:
        """And an open stream tells when it is done."""
        agent = SummingAgent()
        agent.gate.clear()
        async with summing(database_url, agent) as (url, client), Client(url, "other") as other:
            mine = await say(client, "fact 0")
            assert (await compact(client, mine, 409))["type"].endswith("nothing-to-summarize")
            await say(client, "fact 1", conversation_id=mine)
            turns = await turns_of(client, mine)
            gate = CommandedAgent.gates[name := uuid4().hex]
            stream = asyncio.create_task(streamed(client, f"gate {name}\nsay Hello.", mine))
            await gate.reached.wait()
            for _ in range(2):
                assert await compact(client, mine) == {"turn_id": turns[0], "summarized_until": None}
            await compact(other, mine, 404)
            agent.gate.set()
            await until_summed_up(client, mine, turns[0])
            assert len(agent.asked) == 1
            gate.opened.set()
            told = [chunk for chunk in await stream if chunk["type"] == "data-compaction"]
            assert told == [
                {"type": "data-compaction", "data": {"summarized_until": turns[0]}, "transient": True}
            ]
            await say(client, "say on", conversation_id=mine)
            assert ("fact 0" in shown(client)[0], shown(client)[1][0]) == (True, "fact 1")
            listed = (await client.get(client.mine("/conversations"))).json()["items"]
            assert [each["summarized_until"] for each in listed] == [turns[0]]
            path = client.mine(f"/conversations/{mine}")
            assert (await client.patch(path, json={"pinned": True})).json()["summarized_until"] == turns[0]

    async def test_is_void_when_a_turn_that_it_covers_is_answered_anew_or_deleted(
        self, database_url: str
    ) -> None:
        agent = SummingAgent()
        async with summing(database_url, agent, limit=20) as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(4)))
            turns = await turns_of(client, mine)
            for number in (1, 2):  # as many as are kept
                await compact(client, mine)
                await until_summed_up(client, mine, turns[number + 1])
                turns.append((await client.said(f"fact {number + 3}", mine))["turn_id"])
            # The last turn is deleted, so that one that is summed up is the last, and then that, too.
            for turn_id, left in ((turns[5], turns[3]), (turns[4], turns[3])):
                assert (await client.delete(f"/v1/responses/resp_{turn_id}")).is_success
                assert (await conversation(client, mine))["summarized_until"] == left
            answer = await client.post(
                client.mine(f"/turns/{turns[3]}/regenerate"), json={"message": "say another 3"}
            )
            assert answer.status_code == 200, answer.text
            summary, rest = shown(client)
            assert ("fact 2" in summary, "fact 3" in summary, rest) == (True, False, [])
            assert (await conversation(client, mine))["summarized_until"] == turns[2]

    @pytest.mark.parametrize("agent", [CommandedAgent(), SummingAgent()], ids=["no model", "off"])
    async def test_is_refused_where_no_summaries_are_made(
        self, database_url: str, agent: CommandedAgent
    ) -> None:
        compacts = "off" if isinstance(agent, SummingAgent) else "auto"
        async with summing(database_url, agent, compact=compacts) as (_, client):
            mine = await say(client, *(f"fact {number}" for number in range(8)))
            assert (await compact(client, mine, 409))["type"].endswith("summaries-off")
            assert shown(client) == ("", [f"fact {number}" for number in range(3, 7)])


class TestLookingBack:
    async def test_is_offered_when_a_part_of_the_conversation_is_not_shown(self, database_url: str) -> None:
        """And finds what was said in this conversation alone. A tool of the caller's with that name is the caller's."""
        tools = {"name": "recall", "parameters": {"type": "object"}}
        async with summing(database_url, CommandedAgent(), compact="off") as (_, client):
            other = await say(client, "say My dog is called Bello, elsewhere.")
            mine = await say(client, "say My dog is called Rex.", *("say Hello." for _ in range(5)))
            assert "recall" not in await said(client, "specs", other)
            assert (
                await said(client, "specs", mine)
                == "add_task complete_task delete_task list_tasks recall update_task"
            )
            await said(client, 'call recall {"query": "my dog"}', mine)
            *_, answer = await client.messages(mine)
            (call,) = answer["tool_calls"]
            (found,) = call["result"]["turns"]
            assert (found["user"], found["assistant"]) == (
                "say My dog is called Rex.",
                "My dog is called Rex.",
            )
            await said(client, 'call recall {"query": "hello"}', mine)
            *_, answer = await client.messages(mine)
            assert len(answer["tool_calls"][0]["result"]["turns"]) == 2  # the others are shown
            assert "length >= 1" in await said(client, 'call recall {"query": ""}', mine)
            assert "unknown" in await said(
                client, f'call recall {{"query": "a", "conversation_id": {other}}}', mine
            )
            body = {"message": "specs\nask recall {}\nwait", "conversation_id": mine, "client_tools": [tools]}
            asked = await client.post(client.mine("/chat"), json=body)
            assert (asked.status_code, asked.json()["pending"][0]["kind"]) == (202, "client-tool")
            assert asked.json()["response"].count("recall") == 1


class LongBrain(Brain):
    """Answers as always, and sums up by the facts that it is shown; those wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.summaries = asyncio.Event(), 0

    async def reply(self, asked: Asked) -> Reply:
        if not asked.message.startswith("{"):
            return await super().reply(asked)
        assert asked.tools == {}
        self.summaries += 1
        await self.gate.wait()
        shown = json.loads(asked.message)
        said = [shown.get("summary", ""), *(turn["user"] for turn in shown["turns"])]
        facts = [line for text in said for line in text.splitlines() if "fact" in line]
        return Reply((Text(f"<summary>{' '.join(facts)}</summary>"),), "stop")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "google:gemini-2.5-flash"]
)
async def test_a_fact_of_turn_3_is_in_what_is_sent_with_turn_200(database_url: str, model: str) -> None:
    """Of a conversation that was there before summaries were. The summary is sent before all messages, after all else."""
    async with serve_providers() as providers:
        providers.brain = brain = LongBrain()
        brain.gate.set()
        settings = settings_for(database_url, chat_model=model, compact="auto", **providers.settings)
        agent = load_agent(settings, SLOW_MACHINE)
        async with serve(settings, agent) as url, Client(url, f"long-{uuid4().hex}") as client:
            mine = await say(client, "say Hello.")
            await tell(database_url, client, mine, range(2, 199))
            await say(client, "say now", conversation_id=mine)
            turns = await turns_of(client, mine, order="desc")
            await until_summed_up(client, mine, turns[6])
            assert brain.summaries == 2
            await say(client, "say turn 200", conversation_id=mine)
        (sent,) = providers.of("say turn 200")
        assert sent.refused is None
        places = [sent.text.index(f"what was said in turn {number}.") for number in (3, 194, 195, 198)]
        assert places == sorted(places)
        assert sent.text.count("what was said in turn 3.") == 1
        assert "turn 193." not in sent.text
        assert '"recall"' in sent.text


@pytest.mark.slow
async def test_a_summary_survives_kill_minus_nine(postgres: Postgres, tmp_path: Path) -> None:
    """The process dies while the model makes it; its successor makes it after the lease, and once."""
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    async with serve_providers() as providers:
        providers.brain = brain = LongBrain()
        model = {"CHAT_MODEL": "openai:gpt-5-mini", "TITLES": "off", **providers.environ}
        environ = {"DATABASE_URL": url, "BETTER_AUTH_SECRET": SECRET, "CHAT_HISTORY_LIMIT": "10", **model}
        async with Process(tmp_path, environ) as process:
            async with Client(await process.ready(), "alice") as alice:
                mine = await say(alice, *(f"say A fact: {number}." for number in range(4)))
                await becomes(partial(is_true_of, lambda: brain.summaries == 1))
                turns = await turns_of(alice, mine)
            process.kill()
            await process.wait()
        brain.gate.set()
        settings = settings_for(
            url, chat_model="openai:gpt-5-mini", chat_history_limit=10, compact="auto", **providers.settings
        )
        patience = replace(SLOW_MACHINE, summaries=0.02)
        async with (
            serve(settings, load_agent(settings, patience), patience) as base,
            Client(base, "alice") as alice,
        ):
            await say(alice, "say on", conversation_id=mine)
            assert brain.summaries == 1  # it may live still
            await make_due(url, alice)
            await until_summed_up(alice, mine, turns[1])
        assert brain.summaries == 2


async def tell(database_url: str, client: Client, conversation_id: int, numbers: range) -> None:
    """Turns that were answered before."""
    database = open_database(settings_for(database_url))
    async with database.transaction(EVERYONE) as session:
        for number in numbers:
            turn = Turn(
                user_id=client.user_id,
                conversation_id=conversation_id,
                status="completed",
                worker_id="w",
                run_id=uuid4().hex,
                model="m",
            )
            session.add(turn)
            await session.flush()
            told = f"{'A fact' if number == 3 else 'Chatter'}: what was said in turn {number}."
            of_turn = {"user_id": client.user_id, "conversation_id": conversation_id, "turn_id": turn.id}
            session.add(Message(role="user", content=told, **of_turn))
            session.add(Message(role="assistant", content="I see.", **of_turn))
    await database.close()


async def rows_are(database_url: str, client: Client, rows: list[tuple[int, bool]]) -> bool:
    return await open_rows(database_url, client) == rows


async def is_summed_up(client: Client, conversation_id: int) -> bool:
    return (await conversation(client, conversation_id))["summarized_until"] is not None


async def said(client: Client, message: str, conversation_id: int) -> str:
    answer: str = (await client.said(message, conversation_id))["response"]
    return " ".join(json.loads(answer)) if answer.startswith("[") else answer


async def is_true_of(condition: Callable[[], bool]) -> bool:
    return condition()
