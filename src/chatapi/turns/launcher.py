"""Begins turns, each in a task of its own, so that a client that hangs up ends its request and not its turn."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from secrets import token_hex
from typing import Any, TypeVar

from chatapi.agent.approval import ApprovalPolicy
from chatapi.agent.ports import Agent
from chatapi.agent.tools import ExternalTool, ExternalToolSource, Tool
from chatapi.conversations.recall import RECALL, recall_in
from chatapi.errors.base import AppError
from chatapi.errors.database import DatabaseUnavailable
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.turns.expiry import Expiry
from chatapi.turns.lease import Lease
from chatapi.turns.log import TurnLog
from chatapi.turns.measures import MeasuredAgent, Telemetry, measuring
from chatapi.turns.queue import QueueWatch
from chatapi.turns.run_store import RunStore
from chatapi.turns.runner import Runner
from chatapi.turns.schemas import ChatAnswer
from chatapi.turns.store import Claim, Run, TurnStore
from chatapi.turns.summaries import Summaries
from chatapi.turns.supervisor import Supervisor
from chatapi.usage.budgets import Budgets
from chatapi.usage.meter import Meter

T = TypeVar("T")
log = logging.getLogger(__name__)


class Launcher:
    """Claims turns for this process, and runs them."""

    def __init__(
        self,
        store: TurnStore,
        supervisor: Supervisor,
        lease: Lease,
        expiry: Expiry,
        queue: QueueWatch,
        agent: Agent,
        tools: Sequence[Tool[Any]],
        external: ExternalToolSource,
        meter: Meter,
        budgets: Budgets,
        summaries: Summaries,
        settings: Settings,
        patience: Patience,
        telemetry: Telemetry,
        *,
        looks_back: bool,
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._lease = lease
        self._expiry = expiry
        self._queue = queue
        # Users' conversations whose next turn is being begun here.
        self._beginning: set[tuple[str, int]] = set()
        self._agent = MeasuredAgent(agent, telemetry, meter)
        self._own_tools = {tool.name: tool for tool in tools}
        self._external = external
        self._looks_back = looks_back
        self._settings = settings
        self.budgets = budgets
        self._summaries = summaries
        self._approval = ApprovalPolicy.of(settings.tool_approval)
        self._patience = patience
        self._telemetry = telemetry

    @property
    def tools(self) -> dict[str, Tool[Any] | ExternalTool]:
        """The service's tools at this moment: those of MCP servers come and go."""
        return {**self._external(), **self._own_tools}

    async def launch(self, begin: Callable[[], Awaitable[Run | T]]) -> TurnLog | T:
        """Begin a turn and run it to its end; returns its log once it has begun, or what `begin` found instead."""
        begun: asyncio.Future[TurnLog | T] = asyncio.get_running_loop().create_future()
        self._supervisor.spawn(self._telemetry.turn(self._turn, begin, begun))
        return await begun

    async def _turn(
        self, begin: Callable[[], Awaitable[Run | T]], begun: "asyncio.Future[TurnLog | T] | None" = None
    ) -> None:
        """`begun` is for the request that waits for the beginning; a queued turn's has ended, or is another's."""
        try:
            run = await begin()
        except Exception as error:
            if begun is not None and not begun.cancelled():
                begun.set_exception(error)
                begun.exception()  # marks it as seen: the client that would see it may have gone
            elif not isinstance(error, AppError):
                log.exception("A defect at the beginning of a turn")
            return
        except asyncio.CancelledError:
            if begun is not None:
                begun.cancel()
            raise
        if not isinstance(run, Run):
            give(begun, run)
            return
        for ended in run.ended:
            self._expiry.ended(ended)
        runner = self._runner(run, self._store, self._supervisor.live.begun_here(run.turn_id))
        give(begun, runner.log)
        del begin, begun  # the request, which is not needed for as long as the turn runs
        await self._supervisor.look_after(runner)
        if isinstance(runner.log.outcome, ChatAnswer):
            self._summaries.turn_ended(runner.run)
        if runner.is_followed:
            self.begin_next(run.user_id, run.conversation_id)
        self._expiry.wake(at_once=runner.waits)
        self._queue.wake(at_once=False)

    def launch_stateless(self, run: Run, store: RunStore) -> Runner:
        """Run what is no turn, in a task of its own; whoever asked for it stops the runner when it hangs up."""
        runner = self._runner(run, store)
        self._supervisor.spawn(
            self._telemetry.turn(self._supervisor.look_after_stateless, runner),
        )
        return runner

    def _runner(self, run: Run, store: RunStore, log: TurnLog | None = None) -> Runner:
        tools = self.tools
        if self._looks_back and run.window.after and RECALL.name not in tools:
            tools[RECALL.name] = recall_in(run.conversation_id, run.window.after)
        return Runner(run, store, self._agent, tools, self._approval, self._patience, self._settings, log)

    def begin_next(self, user_id: str, conversation_id: int) -> None:
        """Begin the first turn that is queued in the conversation, in a task of its own and no request's context.

        A process that is about to end leaves it to others.
        """
        place = (user_id, conversation_id)
        if self._supervisor.is_draining or place in self._beginning:
            return

        async def begin() -> Run | None:
            try:
                return await self.claim(lambda claim: self._store.begin_queued(*place, claim))
            except DatabaseUnavailable:
                self._queue.wake(at_once=True)  # which waits for the database, too
                raise
            finally:
                self._beginning.discard(place)

        self._beginning.add(place)
        self._supervisor.spawn(self._telemetry.turn(self._turn, begin), Context())

    async def claim(self, begin: Callable[[Claim], Awaitable[T]]) -> T:
        """Begin with a claim of this process."""
        with measuring("store"):
            await self._lease.ensure()
            claim = Claim(
                run_id=token_hex(16),
                worker_id=self._lease.id,
                model=self._agent.model,
                history=self._settings.chat_history_limit // 2,  # a question and its answer
                budgets=self.budgets,
            )
            try:
                return await begin(claim)
            except DatabaseUnavailable:
                self._supervisor.lose(claim.run_id)
                raise


def give(begun: "asyncio.Future[T] | None", value: T) -> None:
    if begun is not None and not begun.cancelled():  # by a client that has gone
        begun.set_result(value)
