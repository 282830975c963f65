"""Runs a claimed turn: lets the agent reply, then stores how that ended."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from chatapi.agent.approval import ApprovalPolicy
from chatapi.agent.ports import (
    Agent,
    AgentEvent,
    Finish,
    FinishReason,
    Prompt,
    ProviderState,
    ReasoningDelta,
    Resumed,
    StepStart,
    TextDelta,
    TextWasReasoning,
    Usage,
    Wait,
)
from chatapi.agent.tools import ExternalTool, Tool
from chatapi.db.models import now
from chatapi.errors.base import AppError
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.models import ModelEmpty, ModelFailed, ModelTooSlow
from chatapi.errors.turns import Interrupted, TurnCancelled
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.text import storable
from chatapi.turns.auditing import Audited
from chatapi.turns.log import ReasoningAdded, TextAdded, TurnLog
from chatapi.turns.measures import measured_as, measured_run, measuring
from chatapi.turns.run_store import RunStore
from chatapi.turns.schemas import ChatAnswer, WaitingAnswer
from chatapi.turns.sides import well_formed
from chatapi.turns.store import Run, Said, Shown
from chatapi.turns.store.answers import Waiting
from chatapi.turns.store.live import Chunk
from chatapi.turns.tools import TurnTools
from chatapi.usage.counting import Spending

log = logging.getLogger(__name__)


class Completed(Struct, frozen=True):
    """The agent has answered."""


class Waits(Struct, frozen=True):
    """The turn goes on when its calls are answered."""


class Cancelled(Struct, frozen=True):
    """Somebody asked for the turn's end."""


class Failed(Struct, frozen=True):
    """There is no answer; `error` is what the client is told."""

    error: AppError


Outcome: TypeAlias = Completed | Waits | Cancelled | Failed


class Runner:
    """One run of a turn by this process; its readers here read `log`, which they may have had while it was queued."""

    def __init__(
        self,
        run: Run,
        store: RunStore,
        agent: Agent,
        tools: Mapping[str, Tool[Any] | ExternalTool],
        approval: ApprovalPolicy,
        patience: Patience,
        settings: Settings,
        log: TurnLog | None = None,
    ) -> None:
        self.run = run
        self.is_followed = False  # whether another turn was queued behind this one when it ended
        self.log = log or TurnLog(
            run.turn_id, run.conversation_id, wait=0 if run.wait is None else run.wait.number
        )
        self.log.created_at = run.created_at
        if run.wait is not None:
            self.log.add(*run.wait.events)
        self._store = store
        self._agent = agent
        self._patience = patience
        self._spending = Spending(None if run.wait is None else run.wait.usage)
        if (told := run.terms.own_tools) is not None:
            tools = {name: tool for name, tool in tools.items() if name in told}
        self._tools = TurnTools(
            store,
            run,
            tools,
            self.log.add,
            self._stopping_clock,
            approval,
            self._spending,
        )
        self._seconds = settings.chat_timeout
        self._wait_seconds = settings.wait_timeout
        self._wait: Any = None  # what the agent wants back when the turn goes on
        self._began = now()
        self._written = len(self.log.events)  # events that readers elsewhere can read
        self._writing: Chunk | None = None  # a chunk that they perhaps can read
        self._finish_reason: FinishReason | None = None  # None is `stop`
        self._state: ProviderState | None = None
        self._stopped: Literal["cancelled", "interrupted"] | None = None
        self._reply: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None  # the time limit of the reply under way

    @property
    def waits(self) -> bool:
        """Whether the run has ended with calls to be answered."""
        return isinstance(self.log.outcome, WaitingAnswer)

    @property
    def deadline(self) -> float | None:
        """When the reply's time is up, by the event loop's clock; None while the clock is stopped or no reply runs."""
        return self._limit and self._limit.when()

    async def carry_out(self) -> None:
        """Run the turn, store its end, and end `log` with it; raises only defects of ours."""
        try:
            with Audited(self.run), measured_run(self.run.turn_id, self.run.conversation_id):
                outcome = await self.reply()
                with measuring("store"):
                    answer = await self._settle(outcome)
                    if isinstance(answer, WaitingAnswer):
                        measured_as("waiting")
                self.log.end(answer)
        except AppError as error:
            self.log.end(error)
        except asyncio.CancelledError:
            self.log.end(Interrupted())
            raise

    async def reply(self) -> Outcome:
        """Let the agent reply, and say how that ended."""
        self._reply = asyncio.create_task(self._hear_all())
        try:
            await self._reply
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever an agent raises ends its turn
            return Cancelled() if self._stopped == "cancelled" else Failed(self._failure(error))
        return Waits() if self._tools.pending else Completed()

    def stop(self, reason: Literal["cancelled", "interrupted"]) -> None:
        """Cancel the reply, only once, so that the agent can clean up; what was said and done so far stays."""
        if self._stopped is None and self._reply is not None and not self._reply.done():
            self._stopped = reason
            self._reply.cancel()

    def unwritten(self) -> Chunk | None:
        """The next chunk to write for readers elsewhere; the same chunk again until `wrote` is called.

        A write that failed may have happened all the same, and readers may have continued from it. Returns None once
        the turn is about to end: the end might miss what it should delete.
        """
        if self._reply is not None and self._reply.done():
            return None
        if self._writing is None and self._written < len(self.log.events):
            self._writing = Chunk(
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

    async def _hear_all(self) -> None:
        run = self.run
        prompt = Prompt(
            user_id=run.user_id,
            conversation_id=run.conversation_id,
            message=run.message,
            history=[*run.window.summary, *run.history],
            resumed=None if run.wait is None else Resumed(state=run.wait.state, approved=run.wait.approved),
            files=run.files,
            options=run.terms.options,
            begun=run.begun,
            own_tools=run.terms.own_tools is None,
        )
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                self._limit = limit
                async for event in self._agent.reply(well_formed(prompt), self._tools):
                    self._hear(event)
            self._tools.tell_pending()
        except TimeoutError as error:
            if limit.expired():
                raise ModelTooSlow(f"The answer took longer than {self._seconds:g} s.") from error
            raise
        finally:
            self._limit = None
        if not self._tools.pending and not self.log.text.strip() and not self._is_cut:
            raise ModelEmpty("The model gave an empty answer.")

    @property
    def _is_cut(self) -> bool:
        """Whether the caller's own limit of length has cut the answer off, perhaps before its first word."""
        limit = self.run.terms.options.max_output_tokens
        return self._finish_reason == "length" and limit is not None

    @contextmanager
    def _stopping_clock(self) -> Iterator[None]:
        """Stop the turn's clock during the block.

        Otherwise, in a burst of turns, the last in the database's queue would be told that the model was too slow.
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

    def _hear(self, event: AgentEvent) -> None:
        match event:
            case TextDelta(text=""):
                pass  # not worth a part of the message
            case TextDelta(text=text):
                self.log.add(TextAdded(storable(text)))
            case ReasoningDelta(text=text):
                self.log.add(ReasoningAdded(storable(text)))
            case TextWasReasoning():
                self.log.add(TextAdded("", was_reasoning=True))
            case StepStart():
                self.log.begin_step()
            case Finish(reason=reason):
                self._finish_reason = None if reason == "stop" else reason
            case Usage():
                self._spending.add(event)
            case ProviderState(left_out=left_out, falls_next=soon):
                self._state = event
                self.run = replace(self.run, window=self.run.window.without(left_out, soon))
            case Wait(state=state):
                self._wait = state

    async def _settle(self, outcome: Outcome) -> ChatAnswer | WaitingAnswer:
        """Write the turn's end, however long the database is away; after the first failed try the client gets 503.

        Returns the answer, or raises the error that the client gets instead.
        """
        said = self._said
        while True:
            try:
                match outcome:
                    case Completed():
                        answer, self.is_followed = await self._store.finish(self.run, said, self._shown)
                        return answer
                    case Waits():
                        return await self._store.wait(self.run, said, self._waiting)
                    case Cancelled():
                        self.is_followed = await self._store.cancel(self.run, said)
                    case Failed(error=error):
                        self.is_followed = await self._store.fail(self.run, said, error.stored)
                break
            except DatabaseUnavailable as trouble:
                self.log.end(trouble)
                await asyncio.sleep(self._patience.settle)
            except TurnCancelled as gone:
                await self._count_lost(said)
                raise (outcome.error if isinstance(outcome, Failed) else gone) from None
            except Exception as defect:
                if not isinstance(outcome, Completed | Waits):
                    raise
                # An answer that cannot be stored must not leave the turn running.
                outcome = Failed(self._failure(defect))
        raise outcome.error if isinstance(outcome, Failed) else TurnCancelled()

    async def _count_lost(self, said: Said) -> None:
        """Count what was used although the turn is somebody else's now, or gone with its conversation."""
        if said.spent:
            try:
                await self._store.count_lost(self.run, said, self._began)
            except DatabaseUnavailable:
                log.warning("What turn %s used is not counted: the database is away", self.run.turn_id)

    @property
    def _said(self) -> Said:
        return Said(
            events=self.log.events,
            tool_calls=self._tools.calls,
            usage=self._spending.usage,
            spent=self._spending.uncounted,
            unheard=self._spending.unheard,
            finish_reason=self._finish_reason,
            state=self._state,
        )

    @property
    def _waiting(self) -> Waiting:
        return Waiting(pending=self._tools.pending, state=self._wait, seconds=self._wait_seconds)

    @property
    def _shown(self) -> Shown:
        if self._writing is not None:
            return "being written"
        return "written" if self._written else "nothing"

    def _failure(self, error: BaseException) -> AppError:
        """The error that the client gets; details that it may not see are logged."""
        if self._stopped:  # whatever the agent raised then
            return Interrupted()
        if isinstance(error, AppError):
            return error
        what = f"turn {self.run.turn_id}" if self.run.turn_id else "a completion"
        log.error("The agent failed in %s", what, exc_info=error)
        return ModelFailed("The model failed to answer.")
