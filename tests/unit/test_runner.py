"""What of a running turn is handed over to be written for readers elsewhere, and how it is stopped."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from chatapi.agent.ports import Agent, AgentEvent, Prompt, StepStart, TextDelta, TextWasReasoning, Tools
from chatapi.errors import ModelBusy
from chatapi.turns.log import TextAdded
from chatapi.turns.runner import Cancelled, Runner
from chatapi.turns.store import Run, TurnStore
from chatapi.turns.ui_stream import UIMessageChunks

RUN = Run(turn_id=1, run_id="run", user_id="alice", conversation_id=1, message="Hello", history=[])
NO_STORE = cast("TurnStore", None)
NOBODY = cast("Agent", None)


def test_a_write_that_may_have_been_done_is_repeated_as_it_was() -> None:
    """Whoever reads elsewhere may have gone on from it: with more in it, the rest would never be read."""
    turn = Runner(RUN, NO_STORE, NOBODY, {}, seconds=60)
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
    turn = Runner(RUN, NO_STORE, NOBODY, {}, seconds=60)
    for event in (StepStart(), TextDelta("First."), StepStart(), TextDelta("Hm"), TextWasReasoning()):
        turn._hear(event)
    assert turn.log.text == "First."
    turn._hear(TextDelta("Yes."))
    assert turn.log.text == "First.Yes."
    chunks = [chunk for event in turn.log.events for chunk in UIMessageChunks().of(event)]
    assert "" not in [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"]


async def test_a_turn_that_is_stopped_for_a_restart_is_interrupted_whatever_its_agent_makes_of_it() -> None:
    turn = Runner(RUN, NO_STORE, NOBODY, {}, seconds=60)
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
    turn = Runner(RUN, NO_STORE, agent, {}, seconds=60)
    reply = asyncio.create_task(turn.reply())
    await agent.begun.wait()
    turn.stop("cancelled")
    await agent.cleaning.wait()
    turn.stop("cancelled")
    agent.go_on.set()
    assert await reply == Cancelled()
    assert agent.is_clean
