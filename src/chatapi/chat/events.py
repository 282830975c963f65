"""What happens in a turn, in the order in which it happens, for as many readers as there are."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from chatapi.agent.ports import ReasoningDelta, TextDelta, ToolCall
from chatapi.chat.schemas import ChatAnswer
from chatapi.errors import AppError


class ToolStarted(Struct, frozen=True, kw_only=True, tag=True):
    """A tool is being called; its `ToolEnded` has the same `id`."""

    id: str
    name: str
    arguments: dict[str, Any]


class ToolEnded(Struct, frozen=True, tag=True):
    call: ToolCall


TurnEvent: TypeAlias = TextDelta | ReasoningDelta | ToolStarted | ToolEnded


class TurnLog:
    """One turn's events, kept once however many read them, and in the end its outcome.

    Who reads keeps an index into the log and nothing else: a slow reader costs no memory, and a late one misses nothing.
    `replayed` says that the answer was given before, to a request with the same key.
    """

    def __init__(self, turn_id: int, conversation_id: int, *, replayed: bool = False) -> None:
        self.turn_id = turn_id
        self.conversation_id = conversation_id
        self.replayed = replayed
        self.events: list[TurnEvent] = []
        self.outcome: ChatAnswer | AppError | None = None
        self.readers = 0
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
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def ended(self) -> ChatAnswer | AppError | None:
        """How it ends for a stream that has come to the last event; None while it goes on."""
        return self.outcome or self._parting

    def add(self, *events: TurnEvent) -> None:
        self.events += events
        self._wake()

    def end(self, outcome: ChatAnswer | AppError) -> None:
        """No event comes after it. The first outcome stays: what clients were told is not taken back."""
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
                    self.events.append(ToolStarted(id=call.id, name=call.name, arguments=call.arguments))
                if call.id not in ended:
                    self.events.append(ToolEnded(call))
            if rest := stored.response.removeprefix(self.text):
                self.events.append(TextDelta(rest))
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
        """All events from the first on, in batches as they come; an empty one after `silence` seconds without any."""
        index = 0
        self.readers += 1
        try:
            while True:
                news = self._news
                batch = self.events[index:]
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

    def _wake(self) -> None:
        if self.readers:
            self._news.set()
            self._news = asyncio.Event()
