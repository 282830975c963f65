"""A turn: begin, reply, finish. No database connection is held while the agent thinks."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from secrets import token_hex
from typing import Any, TypeAlias

import msgspec

from chatapi.agent.ports import Agent
from chatapi.agent.tools import ExternalTool, ExternalToolSource, Tool
from chatapi.audit import audit
from chatapi.chat import alternatives, at_once, chunks, store
from chatapi.chat.events import TurnLog
from chatapi.chat.following import Following, find
from chatapi.chat.lost import LostRuns
from chatapi.chat.measures import MeasuredAgent, Telemetry, measured, measured_run
from chatapi.chat.periodic import every
from chatapi.chat.running import End, RunningTurn, failed, ids_of, interrupted
from chatapi.chat.schemas import AnswerAnew, ChatAnswer, ChatRequest
from chatapi.chat.worker import Worker
from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE
from chatapi.errors import AppError, DatabaseUnavailable, KeyInProgress, Restarting, TurnCancelled
from chatapi.limits.messages import MessageLimit
from chatapi.settings import Settings

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 2
# How soon a cancel from another process is noticed, and how often what was said is written for readers elsewhere; two
# short transactions a process, whatever it runs.
WATCH_SECONDS = 0.5
SETTLE_SECONDS = 1.0  # between tries to write a turn's end while the database is away
STREAM_GRACE_SECONDS = 5.0  # a turn that ends within these of a SIGTERM ends for its reader, too

Begun: TypeAlias = "asyncio.Future[TurnLog]"


class ChatService:
    """Runs turns, each in a task of its own: a client that hangs up ends its request and not its turn."""

    def __init__(
        self,
        database: Database,
        agent: Agent,
        tools: Sequence[Tool[Any]],
        worker: Worker,
        settings: Settings,
        external: ExternalToolSource,
        limit: MessageLimit,
        telemetry: Telemetry,
    ) -> None:
        self._database = database
        self._agent = MeasuredAgent(agent, telemetry)
        self.telemetry = telemetry
        self._tools = {tool.name: tool for tool in tools}
        self._external = external
        self._limit = limit
        self._worker = worker
        self._timeout = settings.chat_timeout
        self._history_turns = settings.chat_history_limit // MESSAGES_PER_TURN
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, RunningTurn] = {}
        self._lost = LostRuns(database)
        self._following = Following(database)
        self._is_draining = False

    async def start(self, user_id: str, request: ChatRequest | AnswerAnew, key: str | None) -> TurnLog:
        """Begin a turn and give its log; with an idempotency key that was answered before, the log of that answer.

        Raises `RateLimited`, but not for what was answered before, and what `store.begin` and `alternatives.begin`
        raise. Once the turn has begun, its log ends with the answer or with `ModelFailed`, `ModelTooSlow`,
        `TurnCancelled`, `Interrupted` or `DatabaseUnavailable`, each with `turn_id` and `conversation_id`.
        """
        begun: Begun = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            self.telemetry.turn(self._turn, user_id, request, fingerprint(key, request), begun)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await begun

    async def start_or_join(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: str | None
    ) -> TurnLog:
        """As `start`, but a turn of the same key that is still running is joined, and not refused."""
        try:
            return await self.start(user_id, request, key)
        except KeyInProgress as running:
            turn_id: int = running.members["turn_id"]
            joined = await self.resume(user_id, running.members["conversation_id"], turn_id)
            if joined is None:
                raise
            return joined

    async def resume(self, user_id: str, conversation_id: int, turn_id: int | None = None) -> TurnLog | None:
        """The log of a turn, wherever it runs or ran: of that id, or of the conversation's active one, if it has one.

        Raises `ConversationNotFound` and `TurnNotFound`.
        """
        turn = await self._database.run(
            user_id, lambda session: find(session, user_id, conversation_id, turn_id)
        )
        if turn is None:
            return None
        if (running := self._running.get(turn.run_id)) is not None:
            return running.log
        log = await self._following.follow(turn)
        if self._is_draining:  # and has told the others already
            self._part([log])
        return log

    async def cancel(self, user_id: str, turn_id: int) -> None:
        """Ask for a turn's end, whichever process runs it; raises `TurnNotFound` and `TurnEnded`."""
        await self._database.run(user_id, lambda session: store.request_cancel(session, user_id, turn_id))
        await self._stop_what_must()

    async def watch(self) -> None:
        """Stop the turns that others cancelled, deleted or took over, and write down what the rest have said.

        Runs until cancelled.
        """
        await every(
            WATCH_SECONDS,
            self._look_after_turns,
            absence="Cancels are not seen while the database is away",
        )

    async def follow(self) -> None:
        """Read on in the turns of other processes that are streamed from here; runs until cancelled."""
        await self._following.run()

    async def drain(self, seconds: float) -> None:
        """Wait for running turns, then end what is left as interrupted; for the shutdown.

        Who streams is told before, and may read on from another process meanwhile.
        """
        self._is_draining = True
        grace = min(seconds, STREAM_GRACE_SECONDS)
        self._part(self._following.logs)
        await self._wait(grace)
        self._part([turn.log for turn in self._running.values()])
        await self._wait(seconds - grace)
        for turn in self._running.values():
            turn.stop("interrupted")
        for task in await self._wait(SETTLE_SECONDS * 3):
            task.cancel()

    async def _wait(self, seconds: float) -> set[asyncio.Task[None]]:
        """Wait for the turns under way; gives those that are not done."""
        return (await asyncio.wait(self._tasks, timeout=seconds))[1] if self._tasks else set()

    def _part(self, logs: Sequence[TurnLog]) -> None:
        for each in logs:
            each.part(Restarting(each.turn_id, each.conversation_id))

    async def _look_after_turns(self) -> None:
        await self._stop_what_must()
        await self._lost.fail()
        await self._write_down()

    async def _stop_what_must(self) -> None:
        if self._running:
            run_ids = list(self._running)
            for run_id in await self._database.run(
                EVERYONE, lambda session: store.runs_to_stop(session, run_ids)
            ):
                if run_id in self._running:
                    self._running[run_id].stop("cancelled")

    async def _write_down(self) -> None:
        if news := [chunk for turn in self._running.values() if (chunk := turn.unwritten())]:
            for run_id in await self._database.run(EVERYONE, lambda session: chunks.write(session, news)):
                if run_id in self._running:
                    self._running[run_id].wrote()

    async def _turn(
        self,
        user_id: str,
        request: ChatRequest | AnswerAnew,
        key: store.Key | None,
        begun: Begun,
    ) -> None:
        """From begin to end. The client is given the log at the beginning, and is not needed for the rest."""
        try:
            started = await self._open(user_id, request, key)
        except Exception as error:  # noqa: BLE001 - it is the client's to see
            if not begun.cancelled():
                begun.set_exception(error)
                begun.exception()  # seen here, since the client that would see it may go before it does
        except asyncio.CancelledError:
            begun.cancel()
            raise
        else:
            if not begun.cancelled():  # by a client that has gone
                begun.set_result(started if isinstance(started, TurnLog) else started.log)
            if isinstance(started, RunningTurn):
                await self._run(started)

    async def _open(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: store.Key | None
    ) -> RunningTurn | TurnLog:
        """Begin the turn, unless its answer was given before."""
        run = await self._limit.count(
            user_id,
            begin=partial(self._begin, user_id, request, key),
            find=partial(self._seen, user_id, key),
            answer=ChatAnswer,
        )
        if isinstance(run, ChatAnswer):
            return TurnLog.of(run, replayed=True)
        tools: dict[str, Tool[Any] | ExternalTool] = {**self._external(), **self._tools}
        turn = RunningTurn(run, self._database, tools)
        self._running[run.run_id] = turn
        return turn

    async def _run(self, turn: RunningTurn) -> None:
        try:
            with audited(turn.run), measured_run(turn.run.turn_id, turn.run.conversation_id):
                turn.log.conclude(
                    await self._settle(turn, await turn.reply(self._agent, self._timeout)), None
                )
        except AppError as error:
            turn.log.end(error)
        except Exception:
            log.exception("A defect in turn %s", turn.run.turn_id)
            self._lost.add(turn.run.run_id)
            turn.log.end(AppError("The service failed; its log has the turn's id.", **ids_of(turn.run)))
        except asyncio.CancelledError:
            turn.log.end(interrupted(turn.run))
            raise
        finally:
            del self._running[turn.run.run_id]

    async def _seen(self, user_id: str, key: store.Key | None) -> ChatAnswer | None:
        if key is None:
            return None
        return await self._database.run(user_id, lambda session: store.seen(session, user_id, key))

    @measured("store")
    async def _begin(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: store.Key | None
    ) -> store.Run | ChatAnswer:
        await self._worker.ensure_lease()
        claim = store.Claim(
            run_id=token_hex(16),
            worker_id=self._worker.id,
            model=self._agent.model,
            history=self._history_turns,
        )
        try:
            return await self._claim(user_id, request, key, claim)
        except DatabaseUnavailable:
            self._lost.add(claim.run_id)
            raise

    async def _claim(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: store.Key | None, claim: store.Claim
    ) -> store.Run | ChatAnswer:
        if isinstance(request, AnswerAnew):
            return await self._database.run(
                user_id,
                lambda session: alternatives.begin(session, user_id, request, key, claim),
                lambda session: store.begun(session, user_id, claim),
            )
        return await self._database.run(
            user_id,
            lambda session: store.begin(session, user_id, request, key, claim),
            lambda session: store.begun(session, user_id, claim),
            at_once=lambda connection: at_once.begin(connection, user_id, request, key, claim),
        )

    @measured("store")
    async def _settle(self, turn: RunningTurn, end: End) -> ChatAnswer:
        """Write the turn's end, however long the database is away; the client is told 503 the first time it is."""
        while True:
            try:
                answer = await self._database.run(
                    turn.run.user_id, end.write, end.recover, at_once=end.at_once
                )
            except DatabaseUnavailable as error:
                error.members |= ids_of(turn.run)
                turn.log.end(error)
                await asyncio.sleep(SETTLE_SECONDS)
            except TurnCancelled as error:
                raise end.failure or error from None
            except Exception as error:
                if end.failure is not None:
                    raise
                end = failed(turn, error)  # what cannot be stored must not leave the turn running
            else:
                if end.failure is not None or answer is None:
                    raise end.failure or TurnCancelled(**ids_of(turn.run))
                return answer


def fingerprint(key: str | None, request: ChatRequest | AnswerAnew) -> store.Key | None:
    """The key with what tells its request from another: the parsed body, and the turn that is answered anew."""
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
