"""What of a running turn is handed over to be written for readers elsewhere, and how it is stopped."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from uuid import uuid4

from sqlalchemy import text

from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools
from chatapi.agent.tools import TASK_TOOLS
from chatapi.chat.running import RunningTurn
from chatapi.chat.schemas import ChatRequest
from chatapi.chat.store import Claim, Run, begin
from chatapi.db.config import Database, database_config
from chatapi.db.schema import upgrade
from tests.support.agents import CommandedAgent
from tests.support.serving import settings_for

RUN = Run(turn_id=1, run_id="run", user_id="alice", conversation_id=1, message="Hello", history=[])
NO_DATABASE = cast("Database", None)


def test_a_write_that_may_have_been_done_is_repeated_as_it_was() -> None:
    """Whoever reads elsewhere may have gone on from it: with more in it, the rest would never be read."""
    turn = RunningTurn(RUN, NO_DATABASE, {})
    assert turn.unwritten() is None
    turn.log.add(TextDelta("One"))
    first = turn.unwritten()
    assert first is not None
    assert (first.position, list(first.events)) == (0, [TextDelta("One")])
    turn.log.add(TextDelta("two"))
    assert turn.unwritten() == first
    turn.wrote()
    second = turn.unwritten()
    assert second is not None
    assert (second.position, list(second.events)) == (1, [TextDelta("two")])
    turn.wrote()
    assert turn.unwritten() is None


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
    agent, turn = Tidy(), RunningTurn(RUN, NO_DATABASE, {})
    reply = asyncio.create_task(turn.reply(agent, seconds=60))
    await agent.begun.wait()
    turn.stop("cancelled")
    await agent.cleaning.wait()
    turn.stop("cancelled")
    agent.go_on.set()
    assert (await reply).failure is not None
    assert agent.is_clean


async def test_its_time_stands_still_while_a_tool_waits_for_the_database(tmp_path: Path) -> None:
    """In a burst it may wait for a connection for longer than a model may think."""
    settings = settings_for(f"sqlite:///{tmp_path / 'chatapi.db'}", db_pool_size=1)
    await asyncio.to_thread(upgrade, settings)
    database = Database(database_config(settings))
    before, after = uuid4().hex, uuid4().hex
    request = ChatRequest(message=f'gate {before}\ncall add_task {{"title": "milk"}}\ngate {after}')
    claim = Claim(run_id="run", worker_id="worker", model="commanded", history=0)
    run = await database.run("alice", lambda session: begin(session, "alice", request, None, claim))
    assert isinstance(run, Run)
    turn = RunningTurn(run, database, {tool.name: tool for tool in TASK_TOOLS})
    reply = asyncio.create_task(turn.reply(CommandedAgent(), seconds=60))
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
    end = await reply
    assert (end.failure, turn.deadline) == (None, None)
    await database.close()
