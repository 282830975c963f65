"""Which chunks a running turn hands over for readers elsewhere, and how it is stopped."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import text

from chatapi.agent.approval import NO_APPROVAL
from chatapi.agent.ports import Agent, AgentEvent, Prompt, StepStart, TextDelta, TextWasReasoning, Tools
from chatapi.agent.tools import TASK_TOOLS, ExternalTool, Tool
from chatapi.db.schema import upgrade
from chatapi.errors.models import ModelBusy
from chatapi.patience import Patience
from chatapi.turns.log import TextAdded
from chatapi.turns.runner import Cancelled, Completed, Runner
from chatapi.turns.schemas import ChatRequest
from chatapi.turns.store import Claim, Run, TurnStore, turn_store
from chatapi.turns.ui_stream import UIMessageChunks
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.serving import settings_for

RUN = Run(turn_id=1, run_id="run", user_id="alice", conversation_id=1, message="Hello", history=[])
NO_STORE = cast("TurnStore", None)
NOBODY = cast("Agent", None)
SETTINGS = settings_for("sqlite:///unused")


def test_a_write_that_may_have_been_done_is_repeated_as_it_was() -> None:
    """Readers elsewhere may have gone on from the chunk: they would never read what was added to it."""
    turn = Runner(RUN, NO_STORE, NOBODY, {}, NO_APPROVAL, Patience(), SETTINGS)
    assert turn.unwritten() is None
    turn.log.add(TextAdded("One"))
    first = turn.unwritten()
    assert first is not None
    assert (first.position, list(first.events)) == (0, [TextAdded("One")])
    turn.log.add(TextAdded("two"))
    assert turn.unwritten() == first
    turn.wrote()
    second = turn.unwritten()
    assert second is not None
    assert (second.position, list(second.events)) == (1, [TextAdded("two")])
    turn.wrote()
    assert turn.unwritten() is None


def test_text_that_turns_out_to_be_reasoning_is_no_part_of_the_answer() -> None:
    turn = Runner(RUN, NO_STORE, NOBODY, {}, NO_APPROVAL, Patience(), SETTINGS)
    for event in (StepStart(), TextDelta("First."), StepStart(), TextDelta("Hm"), TextWasReasoning()):
        turn._hear(event)
    assert turn.log.text == "First."
    turn._hear(TextDelta("Yes."))
    assert turn.log.text == "First.Yes."
    chunks = [chunk for event in turn.log.events for chunk in UIMessageChunks().of(event)]
    assert "" not in [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"]


async def test_a_turn_that_is_stopped_for_a_restart_is_interrupted_whatever_its_agent_makes_of_it() -> None:
    turn = Runner(RUN, NO_STORE, NOBODY, {}, NO_APPROVAL, Patience(), SETTINGS)
    turn._stopped = "interrupted"
    assert turn._failure(ModelBusy("The model is busy.")).type == "interrupted"


class Tidy:
    """An agent that cleans up behind itself, which takes a while."""

    model = "tidy"

    def __init__(self) -> None:
        self.begun, self.cleaning, self.go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.is_clean = False

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        yield TextDelta("Hel")
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaning.set()
            await self.go_on.wait()
            self.is_clean = True


async def test_a_stop_that_is_repeated_does_not_disturb_the_cleaning_up() -> None:
    """A cancel is seen again and again, twice a second, until the turn has ended."""
    agent = Tidy()
    turn = Runner(RUN, NO_STORE, agent, {}, NO_APPROVAL, Patience(), SETTINGS)
    reply = asyncio.create_task(turn.reply())
    await agent.begun.wait()
    turn.stop("cancelled")
    await agent.cleaning.wait()
    turn.stop("cancelled")
    agent.go_on.set()
    assert await reply == Cancelled()
    assert agent.is_clean


async def nothing(_: dict[str, Any]) -> None:
    return None


OUTSIDE = ExternalTool(name="outside", description="", parameters={"type": "object"}, call=nothing)


@pytest.mark.parametrize("tool", [*TASK_TOOLS[:1], OUTSIDE], ids=lambda tool: tool.name)
async def test_its_time_stands_still_while_a_tool_waits_for_the_database(
    tmp_path: Path, tool: Tool[Any] | ExternalTool
) -> None:
    """In a burst a tool may wait for a connection for longer than a model may think."""
    settings = settings_for(f"sqlite:///{tmp_path / 'chatapi.db'}", db_pool_size=1)
    await asyncio.to_thread(upgrade, settings, Patience())
    database = open_database(settings)
    store = turn_store(database)
    before, after = uuid4().hex, uuid4().hex
    arguments = "{}" if tool is OUTSIDE else '{"title": "milk"}'
    request = ChatRequest(message=f"gate {before}\ncall {tool.name} {arguments}\ngate {after}")
    claim = Claim(run_id="run", worker_id="worker", model="commanded", history=0)
    run = await store.begin("alice", request, None, claim)
    assert isinstance(run, Run)
    turn = Runner(
        run,
        store,
        CommandedAgent(),
        {tool.name: tool},
        NO_APPROVAL,
        Patience(),
        settings,
    )
    reply = asyncio.create_task(turn.reply())
    await CommandedAgent.gates[before].reached.wait()
    assert turn.deadline is not None
    async with database.transaction("alice") as session:
        await session.execute(text("SELECT 1"))  # on the only connection
        CommandedAgent.gates[before].opened.set()
        while not turn.log.events:  # noqa: ASYNC110 - until it calls
            await asyncio.sleep(0)
        assert turn.deadline is None
    await CommandedAgent.gates[after].reached.wait()
    left = (turn.deadline or 0) - asyncio.get_running_loop().time()
    assert 0 < left <= 60
    CommandedAgent.gates[after].opened.set()
    assert (await reply, turn.deadline) == (Completed(), None)
    await database.close()
