"""The use cases of a turn: start, resume, cancel. No database connection is held while the agent thinks."""

import asyncio
from collections.abc import Sequence
from functools import partial
from secrets import token_hex
from typing import Any, TypeAlias

from chatapi.agent.ports import Agent
from chatapi.agent.tools import ExternalTool, ExternalToolSource, Tool
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import KeyInProgress
from chatapi.limits.messages import MessageLimit
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.turns.lease import Lease
from chatapi.turns.log import TurnLog
from chatapi.turns.measures import MeasuredAgent, Telemetry, measuring
from chatapi.turns.runner import Runner
from chatapi.turns.schemas import AnswerAnew, ChatRequest
from chatapi.turns.store import Claim, Key, Run, Stored, TurnStore
from chatapi.turns.supervisor import Supervisor, part

Begun: TypeAlias = "asyncio.Future[TurnLog]"


class ChatService:
    """Begins turns and finds them again; `Runner` runs a turn, and `Supervisor` watches over the running ones."""

    def __init__(
        self,
        store: TurnStore,
        supervisor: Supervisor,
        lease: Lease,
        agent: Agent,
        tools: Sequence[Tool[Any]],
        external: ExternalToolSource,
        limit: MessageLimit,
        settings: Settings,
        patience: Patience,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._lease = lease
        self._agent = MeasuredAgent(agent, telemetry)
        self._tools = {tool.name: tool for tool in tools}
        self._external = external
        self._limit = limit
        self._seconds = settings.chat_timeout
        self._history_turns = settings.chat_history_limit // 2  # a question and its answer
        self.patience = patience
        self.telemetry = telemetry

    async def start(self, user_id: str, request: ChatRequest | AnswerAnew, key: str | None) -> TurnLog:
        """Begin a turn and return its log; a key that was answered before returns the log of that answer.

        Raises what `TurnStore.begin` raises, and `RateLimited` unless the key was answered before. Once the turn has
        begun, its log ends with the answer or with `ModelFailed`, `ModelTooSlow`, `TurnCancelled`, `Interrupted` or
        `DatabaseUnavailable`, each with `turn_id` and `conversation_id`.
        """
        begun: Begun = asyncio.get_running_loop().create_future()
        known_by = None if key is None else Key.of(key, request)
        self._supervisor.spawn(self.telemetry.turn(self._turn, user_id, request, known_by, begun))
        return await begun

    async def start_or_join(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: str | None
    ) -> TurnLog:
        """As `start`, but join a turn of the same key that is still running instead of refusing."""
        try:
            return await self.start(user_id, request, key)
        except KeyInProgress as running:
            ids = running.turn
            joined = ids and await self.resume(user_id, ids.conversation_id, ids.turn_id)
            if joined is None:
                raise
            return joined

    async def resume(self, user_id: str, conversation_id: int, turn_id: int | None = None) -> TurnLog | None:
        """The log of the turn with this id, or else of the conversation's active turn; None when no turn is active.

        The turn may run or have run in any process. Raises `ConversationNotFound` and `TurnNotFound`.
        """
        if (turn := await self._store.find(user_id, conversation_id, turn_id)) is None:
            return None
        if (log := self._supervisor.log_of(turn.run_id)) is not None:
            return log
        log = await self._supervisor.live.follow(turn)
        if self._supervisor.is_draining:  # the other streams were told already
            part([log])
        return log

    async def cancel(self, user_id: str, turn_id: int) -> None:
        """Ask for a turn's end, whichever process runs it; raises `TurnNotFound` and `TurnEnded`."""
        await self._store.request_cancel(user_id, turn_id)
        await self._supervisor.stop_cancelled()

    async def _turn(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None, begun: Begun
    ) -> None:
        """Run a turn from begin to end; the client gets the log at the beginning and may leave then."""
        try:
            run = await self._limit.count(
                user_id,
                begin=partial(self._begin, user_id, request, key),
                find=partial(self._seen, user_id, key),
                answer=Stored,
            )
        except Exception as error:  # noqa: BLE001 - it is the client's to see
            if not begun.cancelled():
                begun.set_exception(error)
                begun.exception()  # marks it as seen: the client that would see it may have gone
            return
        except asyncio.CancelledError:
            begun.cancel()
            raise
        if isinstance(run, Stored):
            give(begun, TurnLog.of(run.events, run.answer))
            return
        tools: dict[str, Tool[Any] | ExternalTool] = {**self._external(), **self._tools}
        runner = Runner(run, self._store, self._agent, tools, self.patience, seconds=self._seconds)
        give(begun, runner.log)
        await self._supervisor.look_after(runner)

    async def _begin(self, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None) -> Run | Stored:
        with measuring("store"):
            await self._lease.ensure()
            claim = Claim(
                run_id=token_hex(16),
                worker_id=self._lease.id,
                model=self._agent.model,
                history=self._history_turns,
            )
            try:
                return await self._store.begin(user_id, request, key, claim)
            except DatabaseUnavailable:
                self._supervisor.lose(claim.run_id)
                raise

    async def _seen(self, user_id: str, key: Key | None) -> Stored | None:
        return None if key is None else await self._store.seen(user_id, key)


def give(begun: Begun, log: TurnLog) -> None:
    if not begun.cancelled():  # by a client that has gone
        begun.set_result(log)
