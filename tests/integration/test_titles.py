"""Titles of conversations: at once, by a model, never twice, and never over what the user has set."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from pydantic_ai import Agent as PydanticAgentOfUser
from pydantic_ai.models.test import TestModel

from chatapi.agent.loading import load_agent
from chatapi.agent.ports import Aside, Usage
from chatapi.agent.pydantic_ai import PydanticAgent
from chatapi.errors.models import ModelFailed
from chatapi.turns.schemas import ChatRequest
from chatapi.turns.store import Claim, Run, Said, Title, turn_store
from chatapi.turns.titles import INSTRUCTIONS
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.metrics import scrape
from tests.support.postgres import Postgres
from tests.support.providers.brain import Asked, Brain, Reply, Text
from tests.support.providers.server import serve_providers
from tests.support.serving import SECRET, SLOW_MACHINE, Client, Process, execute, serve, settings_for
from tests.support.sse import streamed, types_of

LONG_AGO = "2026-01-01 00:00:00.000000"


class TitlingAgent(CommandedAgent):
    """Its model's title waits for its gate, and is "About X" for the user's message `say X`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[str] = []
        self.begun = asyncio.Event()

    async def ask(self, instructions: str, message: str) -> Aside:
        assert instructions == INSTRUCTIONS
        self.asked.append(message)
        self.begun.set()
        await self.gate.wait()
        about = message.partition("User: say ")[2].partition("\n")[0]
        if about == "fail":
            raise ModelFailed("No title today.")
        return Aside(text=f'"About {about}."', model="titler", usage=Usage(input_tokens=7, output_tokens=3))


@asynccontextmanager
async def titled(
    database_url: str, agent: CommandedAgent, **patience: float
) -> AsyncIterator[tuple[str, Client]]:
    async with (
        serve(settings_for(database_url, titles="auto"), agent, replace(SLOW_MACHINE, **patience)) as url,
        Client(url, f"titled-{uuid4().hex}") as client,
    ):
        yield url, client


async def conversation(client: Client, conversation_id: int) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(client.mine(f"/conversations/{conversation_id}"))).json()
    return found


async def title_becomes(client: Client, conversation_id: int, title: str | None) -> None:
    for _ in range(3_000):
        if (await conversation(client, conversation_id))["title"] == title:
            return
        await asyncio.sleep(0.01)
    assert (await conversation(client, conversation_id))["title"] == title


async def found(client: Client, query: str) -> list[int]:
    response = await client.get(client.mine("/search"), params={"q": query})
    return [item["conversation_id"] for item in response.json()["items"]]


class TestFirstWords:
    async def test_are_given_with_the_first_answer_and_told_in_its_stream(self, database_url: str) -> None:
        async with titled(database_url, CommandedAgent()) as (_, client):
            failed = await client.chat("fail\nCan you please fail?")
            first = failed.json()["conversation_id"]
            assert (await conversation(client, first))["title"] is None
            chunks = await streamed(client, "Could you please plan a trip to Rome?", first)
            assert types_of(chunks)[-3:] == ["finish-step", "data-title", "finish"]
            assert chunks[-2] == {
                "type": "data-title",
                "data": {"title": "Plan a trip to Rome"},
                "transient": True,
            }
            before = await conversation(client, first)
            assert before["title"] == "Plan a trip to Rome"
            assert first in await found(client, '"plan a trip to rome"')
            assert "data-title" not in types_of(await streamed(client, "say Another.", first))
            added = {"items": [{"role": "assistant", "content": "Welcome."}]}
            made = (await client.post("/v1/conversations", json=added)).json()["id"]
            second = (await client.said("say Hello.", int(made.removeprefix("conv_"))))["conversation_id"]
            assert (await conversation(client, second))["title"] == "Say Hello"
            assert (await conversation(client, first))["title"] == "Plan a trip to Rome"

    async def test_never_take_the_place_of_what_the_user_has_set(self, database_url: str) -> None:
        """Also where the user has taken a title away, and while the first turn is under way."""
        async with titled(database_url, CommandedAgent()) as (_, client):
            for title in ("Mine", None):
                gate = CommandedAgent.gates[name := uuid4().hex]
                turn = asyncio.create_task(client.chat(f"gate {name}\nsay Hello."))
                await gate.reached.wait()
                (newest, *_) = (await client.get(client.mine("/conversations"))).json()["items"]
                path = client.mine(f"/conversations/{newest['id']}")
                await client.patch(path, json={"title": title})
                gate.opened.set()
                await turn
                await client.said("say Hello.", newest["id"])
                assert (await conversation(client, newest["id"]))["title"] == title

    async def test_are_not_given_where_titles_are_off(self, alice: Client) -> None:
        answer = await alice.said("say Hello.")
        assert (await conversation(alice, answer["conversation_id"]))["title"] is None

    async def test_are_given_by_the_plain_form_of_an_end_too(self, database_url: str) -> None:
        """As after a turn that was being written down for other processes when it ended."""

        class Words:
            def title_for(self, run: Run) -> Any:
                return Title(f"Title of {run.message}", None)

            def given(self, run: Run, title: Any) -> None:
                told.append((run.conversation_id, title.text))

        told: list[tuple[int, str]] = []
        database = open_database(settings_for(database_url))
        store = turn_store(database, Words())
        for shown in ("nothing", "written", "being written"):
            claim = Claim(run_id=uuid4().hex, worker_id="w", model="m", history=10)
            run = await store.begin("plain", ChatRequest(message=shown), None, claim)
            assert isinstance(run, Run)
            said = Said(events=[], tool_calls=[])
            await store.finish(run, said, shown)
            assert told[-1] == (run.conversation_id, f"Title of {shown}")
            again = replace(claim, run_id=uuid4().hex)
            request = ChatRequest(message="again", conversation_id=run.conversation_id)
            run = await store.begin("plain", request, None, again)
            assert isinstance(run, Run)
            await store.finish(run, said, shown)
            assert told[-1] == (run.conversation_id, f"Title of {shown}")
        await database.close()


class TestTitleOfAModel:
    async def test_gives_a_better_title_in_the_background(self, database_url: str) -> None:
        """Which an open stream tells, if it is ready in time, and which is counted and searched."""
        agent = TitlingAgent()
        async with titled(database_url, agent) as (url, client):
            first = (await client.said("say Rome"))["conversation_id"]
            before = await conversation(client, first)
            assert before["title"] == "Say Rome"
            gate = CommandedAgent.gates[name := uuid4().hex]
            stream = asyncio.create_task(streamed(client, f"gate {name}\nsay Hello.", first))
            await gate.reached.wait()
            agent.gate.set()
            await title_becomes(client, first, "About Rome")
            gate.opened.set()
            chunks = await stream
            assert [chunk["data"] for chunk in chunks if chunk["type"] == "data-title"] == [
                {"title": "About Rome"}
            ]
            assert (await found(client, "about"), await found(client, "about say")) == ([first], [])
            samples = await scrape(url)
            assert samples.get("tokens_total", model="titler", kind="input") == 7
            used = (await client.get(client.mine("/usage"), params={"by": "model"})).json()["items"]
            titler = {item["model"]: item for item in used}["titler"]
            assert (titler["turns"], titler["input_tokens"], titler["output_tokens"]) == (0, 7, 3)
            assert len(agent.asked) == 1
            assert agent.asked[0] == "User: say Rome\n\nAssistant: Rome"

    async def test_that_fails_or_is_late_leaves_the_first_words(self, database_url: str) -> None:
        agent = TitlingAgent()
        async with titled(database_url, agent, title=0.05) as (_, client):
            late = (await client.said("say late"))["conversation_id"]
            await agent.begun.wait()
            agent.gate.set()
            failed = (await client.said("say fail"))["conversation_id"]
            good = (await client.said("say good"))["conversation_id"]
            await title_becomes(client, good, "About good")
            assert (await conversation(client, failed))["title"] == "Say fail"
            assert (await conversation(client, late))["title"] in {"Say late", "About late"}

    async def test_comes_too_late_for_a_user_who_has_set_another(self, database_url: str) -> None:
        agent = TitlingAgent()
        async with titled(database_url, agent) as (_, client):
            mine = (await client.said("say Rome"))["conversation_id"]
            await agent.begun.wait()
            await client.patch(client.mine(f"/conversations/{mine}"), json={"title": "Mine"})
            agent.gate.set()
            other = (await client.said("say Other"))["conversation_id"]
            await title_becomes(client, other, "About Other")
            assert (await conversation(client, mine))["title"] == "Mine"

    async def test_of_several_processes_is_asked_by_one(self, database_url: str) -> None:
        """Also where the moment has passed and all of them look."""
        agents = [TitlingAgent() for _ in range(3)]
        async with (
            titled(database_url, agents[0], titles=0.02) as (_, client),
            titled(database_url, agents[1], titles=0.02),
            titled(database_url, agents[2], titles=0.02),
        ):
            # As a process leaves it that has died after the turn's end.
            conversation_id = (await client.said("say Rome"))["conversation_id"]
            await agents[0].begun.wait()
            agents[0].asked.clear()
            await execute(
                database_url,
                f"UPDATE conversations SET title_due = '{LONG_AGO}' WHERE id = :id",
                id=conversation_id,
            )
            for _ in range(500):
                if any(agent.asked for agent in agents):
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert sum(len(agent.asked) for agent in agents) == 1
            for agent in agents:
                agent.gate.set()
            await title_becomes(client, conversation_id, "About Rome")

    async def test_of_a_users_own_pydantic_agent_is_asked_without_its_tools(self, database_url: str) -> None:
        own: PydanticAgentOfUser[Any, str] = PydanticAgentOfUser(
            TestModel(custom_output_text="A test's title", call_tools=[]), instructions="Be odd."
        )
        agent = PydanticAgent(own, task_tools=False)
        aside = await agent.ask("Write a title.", "User: Hello")
        assert (aside.text, aside.model) == ("A test's title", "test:test")
        assert aside.usage is not None


class TitleBrain(Brain):
    """Answers as always, but for titles, which wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.titles = asyncio.Event(), 0

    async def reply(self, asked: Asked) -> Reply:
        if not asked.message.startswith("User: "):
            return await super().reply(asked)
        assert asked.tools == {}
        self.titles += 1
        await self.gate.wait()
        return Reply((Text("Reise nach Rom"),), "stop")


@pytest.mark.slow
async def test_a_title_survives_kill_minus_nine(postgres: Postgres, tmp_path: Path) -> None:
    """The process dies while the model thinks about the title; its successor asks again, and once."""
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    async with serve_providers() as providers:
        providers.brain = brain = TitleBrain()
        model = {"CHAT_MODEL": "openai:gpt-5-mini", **providers.environ}
        environ = {"DATABASE_URL": url, "BETTER_AUTH_SECRET": SECRET, **model}
        async with Process(tmp_path, environ) as process:
            async with Client(await process.ready(), "alice") as alice:
                conversation_id = (await alice.said("say Gern, nach Rom!"))["conversation_id"]
                for _ in range(500):
                    if brain.titles:
                        break
                    await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
        brain.gate.set()
        await execute(url, f"UPDATE conversations SET title_due = '{LONG_AGO}' WHERE title_due IS NOT NULL")
        settings = settings_for(url, titles="auto", chat_model="openai:gpt-5-mini", **providers.settings)
        patience = replace(SLOW_MACHINE, titles=0.02)
        agent = load_agent(settings, patience)
        async with serve(settings, agent, patience) as base, Client(base, "alice") as alice:
            assert (await conversation(alice, conversation_id))["title"] in {
                "Say Gern, nach Rom",
                "Reise nach Rom",
            }
            await title_becomes(alice, conversation_id, "Reise nach Rom")
            assert await found(alice, '"reise nach rom"') == [conversation_id]
        assert brain.titles == 2
