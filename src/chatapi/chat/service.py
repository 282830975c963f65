"""A turn: begin, reply, finish. No database connection is held while the agent thinks."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import uuid4

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import Agent, Prompt, ProviderState, TextDelta, Usage
from chatapi.agent.tools import ExternalTool, ExternalToolSource, Tool, no_external_tools
from chatapi.audit import audit
from chatapi.chat import at_once, store
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.chat.tools import TurnTools
from chatapi.chat.worker import Worker
from chatapi.db.alone import Connection
from chatapi.db.config import EVERYONE, AtOnce, Database, Done
from chatapi.errors import (
    AppError,
    DatabaseUnavailable,
    Interrupted,
    ModelEmpty,
    ModelFailed,
    ModelTooSlow,
    TurnCancelled,
)
from chatapi.settings import Settings

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 2
# How soon a cancel from another process is noticed; one query a process, whatever it runs.
WATCH_SECONDS = 0.5
SETTLE_SECONDS = 1.0  # between tries to write a turn's end while the database is away

Admit: TypeAlias = Callable[[str], Awaitable[None]]  # counts a user's message; raises `RateLimited`


class Answered(NamedTuple):
    """An answer; `replayed` when it was given before, to a request with the same key."""

    answer: ChatAnswer
    replayed: bool


class RunningTurn:
    """A turn of this process while its agent replies: what was said so far, and how it may be stopped."""

    def __init__(self, run: store.Run, tools: TurnTools) -> None:
        self.run = run
        self.tools = tools
        self.pieces: list[str] = []
        self.usage: Usage | None = None
        self.state: ProviderState | None = None
        self.stopped: Literal["cancelled", "interrupted"] | None = None
        self._reply: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        return storable("".join(self.pieces))

    async def reply(self, agent: Agent, seconds: float) -> None:
        """Let the agent reply; raises what it raises, and `ModelTooSlow`, or CancelledError when stopped."""
        self._reply = asyncio.create_task(self._take(agent, seconds))
        await self._reply

    def stop(self, reason: Literal["cancelled", "interrupted"]) -> None:
        """End the reply; what was said and done so far stays."""
        if self._reply is not None and not self._reply.done():
            self.stopped = self.stopped or reason
            self._reply.cancel()

    async def finish(self, session: AsyncSession, *, cancelled: bool = False) -> ChatAnswer | None:
        """Store what was said and done, and end the turn; see `store.finish`."""
        return await store.finish(
            session, self.run, cancelled=cancelled, **self._outcome(cancelled=cancelled)
        )

    async def finish_at_once(
        self, connection: Connection, *, cancelled: bool = False
    ) -> Done[ChatAnswer | None] | None:
        return await at_once.finish(
            connection, self.run, cancelled=cancelled, **self._outcome(cancelled=cancelled)
        )

    def _outcome(self, *, cancelled: bool) -> dict[str, Any]:
        return {
            "response": self.text,
            "tool_calls": self.tools.calls,
            "usage": self.usage,
            # Of an answer that broke off the provider has nothing to go on from.
            "state": None if cancelled else self.state,
        }

    async def _take(self, agent: Agent, seconds: float) -> None:
        run = self.run
        prompt = Prompt(
            user_id=run.user_id, conversation_id=run.conversation_id, message=run.message, history=run.history
        )
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                async for event in agent.reply(prompt, self.tools):
                    match event:
                        case TextDelta(text=text):
                            self.pieces.append(text)
                        case Usage():
                            self.usage = event
                        case ProviderState():
                            self.state = event
        except TimeoutError as error:
            if limit.expired():
                raise ModelTooSlow(f"The answer took longer than {seconds:g} s.") from error
            raise
        if not self.text.strip():
            raise ModelEmpty("The model gave an empty answer.")


class ChatService:
    """Runs turns, each in a task of its own: a client that hangs up ends its request and not its turn."""

    def __init__(
        self,
        database: Database,
        agent: Agent,
        tools: Sequence[Tool[Any]],
        worker: Worker,
        settings: Settings,
        external: ExternalToolSource = no_external_tools,
    ) -> None:
        self._database = database
        self._agent = agent
        self._tools = {tool.name: tool for tool in tools}
        self._external = external
        self._worker = worker
        self._timeout = settings.chat_timeout
        self._history_turns = settings.chat_history_limit // MESSAGES_PER_TURN
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, RunningTurn] = {}

    async def answer(self, user_id: str, request: ChatRequest, key: str | None, admit: Admit) -> Answered:
        """Run a turn and wait for its answer; with an idempotency key that was answered before, give that.

        `admit` is asked before a turn begins or runs again, and not for what was answered before. Raises what it
        raises, what `store.begin` raises, and once the turn has begun `ModelFailed`, `ModelTooSlow`, `TurnCancelled`,
        `Interrupted` or `DatabaseUnavailable`, each with `turn_id` and `conversation_id`.
        """
        told: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._turn(user_id, request, fingerprint(key, request), admit, told))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(told)

    async def cancel(self, user_id: str, turn_id: int) -> None:
        """Ask for a turn's end, whichever process runs it; raises `TurnNotFound` and `TurnEnded`."""
        await self._database.run(user_id, lambda session: store.request_cancel(session, user_id, turn_id))
        await self._stop_what_must()

    async def watch(self) -> None:
        """Stop the turns that others cancelled, deleted or took over; runs until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self._stop_what_must()
            except DatabaseUnavailable:
                log.warning("Cancels are not seen while the database is away")

    async def drain(self, seconds: float) -> None:
        """Wait for running turns, then end what is left as interrupted; for the shutdown."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for turn in self._running.values():
            turn.stop("interrupted")
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=SETTLE_SECONDS * 3)
            for task in stuck:
                task.cancel()

    async def _stop_what_must(self) -> None:
        if self._running:
            run_ids = list(self._running)
            for run_id in await self._database.run(
                EVERYONE, lambda session: store.runs_to_stop(session, run_ids)
            ):
                if run_id in self._running:
                    self._running[run_id].stop("cancelled")

    async def _turn(
        self,
        user_id: str,
        request: ChatRequest,
        key: store.Key | None,
        admit: Admit,
        told: "asyncio.Future[Answered]",
    ) -> None:
        """From begin to end, telling the client as soon as there is something to tell, if it still listens."""
        try:
            if key is not None and (earlier := await self._seen(user_id, key)) is not None:
                told.set_result(Answered(earlier, replayed=True))
                return
            await admit(user_id)
            begun = await self._begin(user_id, request, key)
            if isinstance(begun, ChatAnswer):
                answered = Answered(begun, replayed=True)
            else:
                with audited(begun):
                    tools: dict[str, Tool[Any] | ExternalTool] = {**self._external(), **self._tools}
                    turn = RunningTurn(begun, TurnTools(self._database, begun, tools))
                    answered = Answered(
                        await self._settle(turn, await self._reply(turn), told), replayed=False
                    )
        except Exception as error:  # noqa: BLE001 - it is the client's to see
            if told.done():
                log.info("A turn ended after its client was told: %r", error)
            else:
                told.set_exception(error)
                told.exception()  # seen here, since the client that would see it may be gone
        except asyncio.CancelledError:
            told.cancel()
            raise
        else:
            if not told.done():
                told.set_result(answered)

    async def _seen(self, user_id: str, key: store.Key) -> ChatAnswer | None:
        return await self._database.run(
            user_id,
            lambda session: store.seen(session, user_id, key),
            at_once=lambda connection: at_once.seen(connection, user_id, key),
        )

    async def _begin(
        self, user_id: str, request: ChatRequest, key: store.Key | None
    ) -> store.Run | ChatAnswer:
        await self._worker.ensure_lease()
        claim = store.Claim(
            run_id=uuid4().hex,
            worker_id=self._worker.id,
            model=self._agent.model,
            history=self._history_turns,
        )
        return await self._database.run(
            user_id,
            lambda session: store.begin(session, user_id, request, key, claim),
            lambda session: store.begun(session, user_id, request, claim),
            at_once=lambda connection: at_once.begin(connection, user_id, request, key, claim),
        )

    async def _reply(self, turn: RunningTurn) -> "End":
        self._running[turn.run.run_id] = turn
        try:
            await turn.reply(self._agent, self._timeout)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever an agent raises ends its turn
            return failed(turn, error) if turn.stopped != "cancelled" else cancelled(turn)
        finally:
            del self._running[turn.run.run_id]
        return completed(turn)

    async def _settle(self, turn: RunningTurn, end: "End", told: "asyncio.Future[Answered]") -> ChatAnswer:
        """Write the turn's end, however long the database is away; the client is told 503 the first time it is."""
        while True:
            try:
                answer = await self._database.run(
                    turn.run.user_id, end.write, end.recover, at_once=end.at_once
                )
            except DatabaseUnavailable as error:
                error.members |= ids_of(turn.run)
                if not told.done():
                    told.set_exception(error)
                    told.exception()
                await asyncio.sleep(SETTLE_SECONDS)
            except TurnCancelled as error:
                raise end.failure or error from None
            except Exception as error:
                if end.failure is not None:
                    raise
                end = failed(turn, error)  # what cannot be stored must not leave the turn running
            else:
                if end.failure is not None or answer is None:
                    raise end.failure or TurnCancelled(turn.run.turn_id, turn.run.conversation_id)
                return answer


def fingerprint(key: str | None, request: ChatRequest) -> store.Key | None:
    """The key with what tells its request from another: the parsed body."""
    if key is None:
        return None
    return store.Key(value=key, request_hash=sha256(msgspec.json.encode(request)).hexdigest())


@contextmanager
def audited(run: store.Run) -> Iterator[None]:
    """A turn's beginning and its end, by ids alone."""
    ids = {"user_id": run.user_id, **ids_of(run)}
    audit("turn.begun", "success", **ids)
    try:
        yield
    except BaseException as error:
        audit("turn.ended", "failure", reason=getattr(error, "type", type(error).__name__), **ids)
        raise
    audit("turn.ended", "success", **ids)


class End(NamedTuple):
    """How a turn ends: what is written, how to see that it was, and, if there is no answer, what the client is told."""

    write: Callable[[AsyncSession], Awaitable[ChatAnswer | None]]
    recover: Callable[[AsyncSession], Awaitable[ChatAnswer | None]] | None
    failure: AppError | None
    at_once: AtOnce[ChatAnswer | None] | None = None  # `write` as one statement


def completed(turn: RunningTurn) -> End:
    return End(turn.finish, lambda session: store.finished(session, turn.run), None, turn.finish_at_once)


def cancelled(turn: RunningTurn) -> End:
    return End(
        partial(turn.finish, cancelled=True),
        None,
        TurnCancelled(turn.run.turn_id, turn.run.conversation_id),
    )


def failed(turn: RunningTurn, error: BaseException) -> End:
    """What the client may not be told of the error is logged."""
    if isinstance(error, AppError):
        failure = error
    elif isinstance(error, asyncio.CancelledError) and turn.stopped:
        failure = Interrupted("The service is restarting; send the message again.", retry_after=1)
    else:
        log.error("The agent failed in turn %s", turn.run.turn_id, exc_info=error)
        failure = ModelFailed("The model failed to answer.")
    failure.members |= ids_of(turn.run)

    async def write(session: AsyncSession) -> None:
        await store.fail(session, turn.run, {"type": failure.type, "detail": failure.detail})

    return End(write, None, failure)


def ids_of(run: store.Run) -> dict[str, int]:
    return {"turn_id": run.turn_id, "conversation_id": run.conversation_id}


def storable(text: str) -> str:
    """The text without what PostgreSQL's UTF-8 cannot hold: U+0000 and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
