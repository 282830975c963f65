"""A turn of this process while its agent replies, and the ways in which it can end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import Agent, Prompt, ProviderState, ReasoningDelta, TextDelta, Usage
from chatapi.agent.tools import ExternalTool, Tool
from chatapi.chat import at_once, chunks, store
from chatapi.chat.events import TurnLog
from chatapi.chat.schemas import ChatAnswer
from chatapi.chat.tools import TurnTools
from chatapi.db.alone import Connection
from chatapi.db.config import AtOnce, Database, Done
from chatapi.errors import AppError, Interrupted, ModelEmpty, ModelFailed, ModelTooSlow, TurnCancelled
from chatapi.text import storable

log = logging.getLogger(__name__)


class RunningTurn:
    """One run of a turn: its events so far, and how it may be stopped."""

    def __init__(
        self, run: store.Run, database: Database, tools: Mapping[str, Tool[Any] | ExternalTool]
    ) -> None:
        self.run = run
        self.log = TurnLog(run.turn_id, run.conversation_id)
        self.tools = TurnTools(database, run, tools, self.log.add, self._stopping_clock)
        self._written = 0  # events that are in the database
        self._writing: chunks.Chunk | None = None  # which may be there, too
        self.usage: Usage | None = None
        self.state: ProviderState | None = None
        self.stopped: Literal["cancelled", "interrupted"] | None = None
        self._reply: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None  # of the reply under way

    @property
    def deadline(self) -> float | None:
        """When its time is up, by the event loop's clock; None while that stands still, and while it does not reply."""
        return self._limit and self._limit.when()

    async def reply(self, agent: Agent, seconds: float) -> "End":
        """Let the agent reply, and say how that ended."""
        self._reply = asyncio.create_task(self._take(agent, seconds))
        try:
            await self._reply
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever an agent raises ends its turn
            return failed(self, error) if self.stopped != "cancelled" else cancelled(self)
        return completed(self)

    def stop(self, reason: Literal["cancelled", "interrupted"]) -> None:
        """End the reply; what was said and done so far stays. Asked again, it lets the agent clean up behind itself."""
        if self.stopped is None and self._reply is not None and not self._reply.done():
            self.stopped = reason
            self._reply.cancel()

    def unwritten(self) -> chunks.Chunk | None:
        """What is to be written for readers elsewhere; the same again until it is known to be, by `wrote`.

        A write that failed may have been done all the same, and readers may have gone on from there. Of a turn that is
        about to end nothing is: the end might just have missed that there is something to forget.
        """
        if self._reply is not None and self._reply.done():
            return None
        if self._writing is None and self._written < len(self.log.events):
            self._writing = chunks.Chunk(
                turn_id=self.run.turn_id,
                run_id=self.run.run_id,
                user_id=self.run.user_id,
                position=self._written,
                events=self.log.events[self._written :],
            )
        return self._writing

    def wrote(self) -> None:
        if self._writing is not None:
            self._written += len(self._writing.events)
            self._writing = None

    @property
    def _may_be_written(self) -> bool:
        return self._written > 0 or self._writing is not None

    async def finish(self, session: AsyncSession) -> ChatAnswer:
        """Store what was said and done, and end the turn; see `store.finish`."""
        answer = await store.finish(session, self.run, **self._outcome)
        await self.forget(session)
        return answer

    async def finish_at_once(self, connection: Connection) -> Done[ChatAnswer | None] | None:
        """As `finish`, where there is nothing to forget."""
        return None if self._may_be_written else await at_once.finish(connection, self.run, **self._outcome)

    async def finish_cancelled(self, session: AsyncSession) -> None:
        await store.finish_cancelled(session, self.run, response=self.log.text, usage=self.usage)
        await self.forget(session)

    @property
    def _outcome(self) -> dict[str, Any]:
        return {
            "response": self.log.text,
            "tool_calls": self.tools.calls,
            "usage": self.usage,
            "state": self.state,
        }

    async def forget(self, session: AsyncSession) -> None:
        """The turn has ended in this transaction: what followers were to read of it is in its message, or nowhere."""
        if self._may_be_written:
            await chunks.drop(session, self.run.user_id, self.run.turn_id)

    @contextmanager
    def _stopping_clock(self) -> Iterator[None]:
        """Meanwhile the turn's time stands still.

        In a burst of turns those that had a place in the database's queue last would be told that the model was too slow.
        """
        limit, deadline = self._limit, self.deadline
        if limit is None or deadline is None or limit.expired():
            yield
            return
        now = asyncio.get_running_loop().time
        left = deadline - now()
        limit.reschedule(None)
        try:
            yield
        finally:
            if self._limit is limit:  # an agent may have ended without waiting for its call
                limit.reschedule(now() + left)

    async def _take(self, agent: Agent, seconds: float) -> None:
        run = self.run
        prompt = Prompt(
            user_id=run.user_id, conversation_id=run.conversation_id, message=run.message, history=run.history
        )
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                self._limit = limit
                async for event in agent.reply(prompt, self.tools):
                    match event:
                        case TextDelta(text=text):
                            self.log.add(TextDelta(storable(text)))
                        case ReasoningDelta(text=text):
                            self.log.add(ReasoningDelta(storable(text)))
                        case Usage():
                            self.usage = event
                        case ProviderState():
                            self.state = event
        except TimeoutError as error:
            if limit.expired():
                raise ModelTooSlow(f"The answer took longer than {seconds:g} s.") from error
            raise
        finally:
            self._limit = None
        if not self.log.text.strip():
            raise ModelEmpty("The model gave an empty answer.")


class End(NamedTuple):
    """How a turn ends: what is written, how to see that it was, and, if there is no answer, what the client is told."""

    write: Callable[[AsyncSession], Awaitable[ChatAnswer | None]]
    recover: Callable[[AsyncSession], Awaitable[ChatAnswer | None]] | None
    failure: AppError | None
    at_once: AtOnce[ChatAnswer | None] | None = None  # `write` as one statement


def completed(turn: RunningTurn) -> End:
    return End(turn.finish, lambda session: store.finished(session, turn.run), None, turn.finish_at_once)


def cancelled(turn: RunningTurn) -> End:
    return End(turn.finish_cancelled, None, TurnCancelled(**ids_of(turn.run)))


def failed(turn: RunningTurn, error: BaseException) -> End:
    """What the client may not be told of the error is logged."""
    if isinstance(error, AppError):
        failure = error
    elif isinstance(error, asyncio.CancelledError) and turn.stopped:
        failure = interrupted(turn.run)
    else:
        log.error("The agent failed in turn %s", turn.run.turn_id, exc_info=error)
        failure = ModelFailed("The model failed to answer.")
    failure.members |= ids_of(turn.run)

    async def write(session: AsyncSession) -> None:
        await store.fail(session, turn.run, failure.stored)
        await turn.forget(session)

    return End(write, None, failure)


def interrupted(run: store.Run) -> Interrupted:
    return Interrupted("The service is restarting; send the message again.", retry_after=1, **ids_of(run))


def ids_of(run: store.Run) -> dict[str, int]:
    return {"turn_id": run.turn_id, "conversation_id": run.conversation_id}
