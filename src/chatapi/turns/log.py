"""What happens in a turn, in the order in which it happens, for as many readers as there are."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from chatapi.agent.ports import ToolCall
from chatapi.errors.base import AppError
from chatapi.turns.schemas import ChatAnswer

# Of text in a batch, about. It is held for each reader who is slow, beside the 64 KiB that the server holds for it; and
# some hundred tokens a write are as good as more.
BATCH_CHARACTERS = 16 * 1024
DELTA_OVERHEAD = 64  # characters that a delta is longer by when it is sent


# The events as JSON are stored (`chat.chunks`) and read by replicas of the version before: they know these tags and no
# others, and leave members alone that they do not know. `begins_step`: the event is the first of an answer of the model.


class TextAdded(Struct, frozen=True, tag="TextDelta", omit_defaults=True):
    """The next piece of the answer. `was_reasoning`: the step's text before it was none (`ports.TextWasReasoning`)."""

    text: str
    begins_step: bool = False
    was_reasoning: bool = False


class ReasoningAdded(Struct, frozen=True, tag="ReasoningDelta", omit_defaults=True):
    """The next piece of what the model thinks on its way there."""

    text: str
    begins_step: bool = False


class ToolStarted(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A tool is being called; its `ToolEnded` has the same `id`."""

    id: str
    name: str
    arguments: dict[str, Any]
    begins_step: bool = False


class ToolEnded(Struct, frozen=True, tag=True):
    call: ToolCall


TurnEvent: TypeAlias = TextAdded | ReasoningAdded | ToolStarted | ToolEnded


class TurnLog:
    """One turn's events, kept once however many read them, and in the end its outcome.

    Who reads keeps an index into the log and a batch of it: a slow reader costs little, and a late one misses nothing.
    `replayed` says that the answer was given before, to a request with the same key.
    """

    def __init__(self, turn_id: int, conversation_id: int, *, replayed: bool = False) -> None:
        self.turn_id = turn_id
        self.conversation_id = conversation_id
        self.replayed = replayed
        self.events: list[TurnEvent] = []
        self.outcome: ChatAnswer | AppError | None = None
        self.readers = 0
        self._step_begins = False
        self._parting: AppError | None = None
        self._news = asyncio.Event()
        self._over = asyncio.Event()

    @classmethod
    def of(cls, answer: ChatAnswer, *, replayed: bool = False) -> "TurnLog":
        """The log of a turn that was answered before."""
        log = cls(answer.turn_id, answer.conversation_id, replayed=replayed)
        log.conclude(answer, None)
        return log

    @property
    def text(self) -> str:
        """The answer as far as it has been said."""
        pieces: list[str] = []
        before_step = 0
        for event in self.events:
            if not isinstance(event, ToolEnded) and event.begins_step:
                before_step = len(pieces)
            if isinstance(event, TextAdded):
                if event.was_reasoning:
                    del pieces[before_step:]
                pieces.append(event.text)
        return "".join(pieces)

    @property
    def ended(self) -> ChatAnswer | AppError | None:
        """How it ends for a stream that has come to the last event; None while it goes on."""
        return self.outcome or self._parting

    def begin_step(self) -> None:
        """The next text, thought or call that is added is the first of a step; a step without any is none."""
        self._step_begins = True

    def add(self, *events: TurnEvent) -> None:
        self._append(*events)
        self._wake()

    def end(self, outcome: ChatAnswer | AppError) -> None:
        """No event comes after it. The first outcome stays: what clients were told is not taken back.

        A failure is told with the ids of its turn; for a client, a failure without them is no end of the turn.
        """
        if isinstance(outcome, AppError):
            outcome = outcome.with_turn(self.turn_id, self.conversation_id)
        self.outcome = self.outcome or outcome
        self._over.set()
        self._wake()

    def conclude(self, stored: ChatAnswer | None, failure: AppError | None) -> None:
        """End it with what was stored: what of that has not been heard here yet comes first."""
        if stored is not None:
            told = {event.id for event in self.events if isinstance(event, ToolStarted)}
            ended = {event.call.id for event in self.events if isinstance(event, ToolEnded)}
            for call in stored.tool_calls:
                if call.id not in told:
                    self._append(ToolStarted(id=call.id, name=call.name, arguments=call.arguments))
                if call.id not in ended:
                    self._append(ToolEnded(call))
            if rest := stored.response.removeprefix(self.text):
                self._append(TextAdded(rest))
        if (outcome := failure or stored) is not None:
            self.end(outcome)

    def part(self, reason: AppError) -> None:
        """End it for those who stream it; the turn goes on, and whoever waits for its answer still gets it."""
        self._parting = self._parting or reason
        self._wake()

    async def answer(self) -> ChatAnswer:
        """Wait for the turn's end; raises what it ended with."""
        await self._over.wait()
        if isinstance(self.outcome, ChatAnswer):
            return self.outcome
        raise self.outcome or AssertionError("a log that is over has an outcome")

    async def read(self, silence: float) -> AsyncIterator[Sequence[TurnEvent]]:
        """All events from the first on, in batches as they come; an empty one after `silence` seconds without any.

        Only as much is handed out as may be sent at once: what a reader does not take stays where it is kept anyway.
        """
        index = 0
        self.readers += 1
        try:
            while True:
                news = self._news
                batch = self._batch(index)
                if not batch and self.ended is not None:
                    return
                if not batch:
                    try:
                        async with asyncio.timeout(silence):
                            await news.wait()
                    except TimeoutError:
                        yield ()
                    continue
                index += len(batch)
                yield batch
        finally:
            self.readers -= 1

    def _append(self, *events: TurnEvent) -> None:
        for each in events:
            event = each
            if self._step_begins and not isinstance(event, ToolEnded):
                event = replace(event, begins_step=True)
                self._step_begins = False
            if isinstance(event, TextAdded | ReasoningAdded) and len(event.text) > BATCH_CHARACTERS:
                self.events += pieces_of(event)
            else:
                self.events.append(event)

    def _batch(self, start: int) -> Sequence[TurnEvent]:
        end, room = start, BATCH_CHARACTERS
        while room > 0 and end < len(self.events):
            room -= size_of(self.events[end])
            end += 1
        return self.events[start:end]

    def _wake(self) -> None:
        if self.readers:
            self._news.set()
            self._news = asyncio.Event()


def pieces_of(delta: TextAdded | ReasoningAdded) -> Iterator[TurnEvent]:
    for start in range(0, len(delta.text), BATCH_CHARACTERS):
        yield type(delta)(delta.text[start : start + BATCH_CHARACTERS], delta.begins_step and start == 0)


def size_of(event: TurnEvent) -> int:
    """Of a tool call it is not known, so it is the last of its batch."""
    return (
        len(event.text) + DELTA_OVERHEAD
        if isinstance(event, TextAdded | ReasoningAdded)
        else BATCH_CHARACTERS
    )
