"""The events of one turn, in order, kept once for all its readers."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from chatapi.agent.ports import Asking, ToolCall
from chatapi.errors.base import AppError
from chatapi.parts import Approval
from chatapi.turns.schemas import ChatAnswer, WaitingAnswer

# About how much text a batch has. Each slow reader holds one, beside the 64 KiB that the server holds for it; batches of
# more than some hundred tokens gain nothing.
BATCH_CHARACTERS = 16 * 1024
DELTA_OVERHEAD = 64  # characters that sending adds to a delta


# The events are stored as JSON (`turn_chunks.events`) and read by replicas of the version before: those know only these
# tags, and ignore members that they do not know. `begins_step` marks the first event of an answer of the model.


class TextAdded(Struct, frozen=True, tag="TextDelta", omit_defaults=True):
    """The next piece of the answer. `was_reasoning`: the step's earlier text was reasoning (`ports.TextWasReasoning`)."""

    text: str
    begins_step: bool = False
    was_reasoning: bool = False


class ReasoningAdded(Struct, frozen=True, tag="ReasoningDelta", omit_defaults=True):
    """The next piece of the model's reasoning."""

    text: str
    begins_step: bool = False


class ToolStarted(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A tool is being called; its `ToolEnded` has the same `id`.

    `asks`: the call needs an answer first. If that is an approval, `approval` has its id and, later, the answer. A call
    that turns out to need one when it is made is told a second time, with `asks`.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    begins_step: bool = False
    asks: Asking | None = None
    approval: Approval | None = None


class ToolEnded(Struct, frozen=True, tag=True, omit_defaults=True):
    """`wait` is the number of the wait in which the call was answered; 0 for a call that needed no answer."""

    call: ToolCall
    wait: int = 0


class Waiters:
    """Tasks that wait for the same thing. A stream has two such objects, and an `asyncio.Event` takes 0.8 KiB."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[bool]] = []

    def wake(self) -> None:
        """Wake all that wait now."""
        for future in self._futures:
            settle(future, woken=True)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until `wake`, at most so long; returns False when the time is up."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, settle, future)
        self._futures.append(future)
        try:
            return await future
        finally:
            self._futures.remove(future)
            if timer is not None:
                timer.cancel()


def settle(future: asyncio.Future[bool], *, woken: bool = False) -> None:
    if not future.done():
        future.set_result(woken)


Outcome: TypeAlias = ChatAnswer | WaitingAnswer | AppError
TurnEvent: TypeAlias = TextAdded | ReasoningAdded | ToolStarted | ToolEnded


class TurnLog:
    """One turn's events, kept once for all readers, and its outcome once it has ended.

    A reader keeps only an index and one batch, so a slow reader costs little, and a late one misses nothing.
    `replayed` says that the answer was given before, to a request with the same key. `wait` is the number of the wait
    for answers from which the turn has gone on, 0 if there was none. `queued`: the turn has not begun. A run without a
    turn (`turns.stateless`) has 0 in the place of both ids.
    """

    def __init__(
        self,
        turn_id: int,
        conversation_id: int,
        *,
        replayed: bool = False,
        wait: int = 0,
        queued: bool = False,
    ) -> None:
        self.turn_id = turn_id
        self.conversation_id = conversation_id
        self.replayed = replayed
        self.wait = wait
        self.queued = queued
        self.created_at: datetime | None = None  # the turn's, if it runs here
        self.events: list[TurnEvent] = []
        self.outcome: Outcome | None = None
        self.readers = 0
        self.title: str | None = (
            None  # that the conversation was given meanwhile; a stream tells it before its end
        )
        self.summarized_until: int | None = None  # likewise, if a summary was made meanwhile
        self._step_begins = False
        self._parting: AppError | None = None
        self._is_over = False
        self._news = Waiters()
        self._end = Waiters()

    @classmethod
    def of(cls, outcome: ChatAnswer | WaitingAnswer) -> "TurnLog":
        """The log of a turn that stands so, without its events."""
        log = cls(outcome.turn_id, outcome.conversation_id)
        log.end(outcome)
        return log

    @property
    def text(self) -> str:
        """The answer so far."""
        return text_of(self.events)

    @property
    def ended(self) -> Outcome | None:
        """The outcome that a stream ends with after the last event; None while it goes on."""
        return self.outcome or self._parting

    def begin(self) -> None:
        """Tell readers that the turn is queued no longer."""
        self.queued = False
        self._news.wake()

    def begin_step(self) -> None:
        """Mark the next text, reasoning or call as the first of a step; a step without any leaves no trace."""
        self._step_begins = True

    def add(self, *events: TurnEvent) -> None:
        self._append(*events)
        self._news.wake()

    def end(self, outcome: Outcome) -> None:
        """End the log; no event comes later. The first outcome stays, because clients may have been told of it.

        A failure carries the ids of its turn: a client does not take a failure without them for the turn's end.
        """
        if isinstance(outcome, AppError) and self.turn_id:
            outcome = outcome.with_turn(self.turn_id, self.conversation_id)
        self.outcome = self.outcome or outcome
        self._be_over()

    def part(self, reason: AppError) -> None:
        """End the log's streams; the turn goes on, and a caller of `answer` still gets its answer."""
        self._parting = self._parting or reason
        self._news.wake()

    def lose(self, reason: AppError) -> None:
        """As `part`, and callers of `answer` are told the reason, too: this process follows the turn no longer."""
        self._parting = self._parting or reason
        self._be_over()

    async def answer(self) -> ChatAnswer | WaitingAnswer:
        """Wait for the turn's end; raises what it ended with, or why it is not followed to its end."""
        self.readers += 1
        try:
            if not self._is_over:
                await self._end.wait()
        finally:
            self.readers -= 1
        if isinstance(self.outcome, ChatAnswer | WaitingAnswer):
            return self.outcome
        raise self.outcome or self._parting or AssertionError("a log that is over has an outcome")

    async def read(self, silence: float) -> AsyncGenerator[Sequence[TurnEvent], None]:
        """Yield all events from the first on, in batches; an empty batch after `silence` seconds, and when the turn has begun.

        A batch holds only what may be sent at once: the rest stays in the log, which keeps it anyway.
        """
        index = 0
        was_queued = self.queued
        self.readers += 1
        try:
            while True:
                if was_queued and not self.queued:
                    was_queued = False
                    yield ()
                elif batch := self._batch(index):
                    index += len(batch)
                    yield batch
                elif self.ended is not None:
                    return
                elif not await self._news.wait(silence):
                    yield ()
        finally:
            self.readers -= 1

    def _append(self, *events: TurnEvent) -> None:
        for each in events:
            event = each
            if self._step_begins and not isinstance(event, ToolEnded):
                event = replace(event, begins_step=True)
                self._step_begins = False
            if isinstance(event, ToolEnded):
                self.wait = max(self.wait, event.wait)
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

    def _be_over(self) -> None:
        self._is_over = True
        self._end.wake()
        self._news.wake()


def pieces_of(delta: TextAdded | ReasoningAdded) -> Iterator[TurnEvent]:
    for start in range(0, len(delta.text), BATCH_CHARACTERS):
        yield type(delta)(delta.text[start : start + BATCH_CHARACTERS], delta.begins_step and start == 0)


def size_of(event: TurnEvent) -> int:
    """A tool call's size is unknown, so it counts as a whole batch and ends the one that it is in."""
    return (
        len(event.text) + DELTA_OVERHEAD
        if isinstance(event, TextAdded | ReasoningAdded)
        else BATCH_CHARACTERS
    )


def text_of(events: Sequence[TurnEvent]) -> str:
    """The answer that these events tell."""
    pieces: list[str] = []
    before_step = 0
    for event in events:
        if not isinstance(event, ToolEnded) and event.begins_step:
            before_step = len(pieces)
        if isinstance(event, TextAdded):
            if event.was_reasoning:
                del pieces[before_step:]
            pieces.append(event.text)
    return "".join(pieces)
