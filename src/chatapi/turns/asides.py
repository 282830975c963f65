"""What a process asks its model beside conversations, in the background: titles and summaries.

Each is claimed in the database before, so that no two processes ask for one, and looked for by others, in case its process has
died. See `turns.titles` and `turns.summaries`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import timedelta

import msgspec

from chatapi.agent.ports import Agent, Aside, Asks, ModelUsage
from chatapi.errors.base import AppError
from chatapi.errors.database import DatabaseUnavailable
from chatapi.turns.loops import every
from chatapi.usage.meter import Meter

log = logging.getLogger(__name__)

AT_ONCE = 4  # requests of a kind in a process; turns come first


class Asides:
    """One kind of them, such as "title". `seconds` is how long a model may take, and `lease` how long a claim holds."""

    def __init__(self, agent: Agent, meter: Meter, *, kind: str, seconds: float, lease: timedelta) -> None:
        self._model = agent if isinstance(agent, Asks) else None
        self._meter = meter
        self._kind = kind
        self._seconds = seconds
        # An idle process looks no longer for what others have left, so that a database can sleep.
        self._look_seconds = 3 * lease.total_seconds()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.keep_looking()

    @property
    def are_possible(self) -> bool:
        """Whether the agent has a model that can be asked so."""
        return self._model is not None

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work when there is room, in a task of its own and no request's context."""
        task = asyncio.create_task(self._carry_out(work), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            async with self._room:
                await work()
        except DatabaseUnavailable:
            log.warning("A %s waits for the database", self._kind)
        except Exception:
            log.exception("A defect in a %s", self._kind)

    async def ask(self, user_id: str, conversation_id: int, instructions: str, message: str) -> Aside | None:
        """The model's answer, which is counted; None if it gives none."""
        assert self._model is not None  # noqa: S101 - or nothing would be claimed
        try:
            async with asyncio.timeout(self._seconds):
                aside = await self._model.ask(instructions, message)
        except (AppError, TimeoutError) as error:
            log.warning("The model gave no %s: %s", self._kind, getattr(error, "detail", "it took too long"))
            return None
        if (usage := aside.usage) is not None:
            if not isinstance(usage, ModelUsage):
                usage = ModelUsage(model=aside.model, **msgspec.structs.asdict(usage))
            await self._meter.count(user_id, conversation_id, usage)
        return aside

    def keep_looking(self) -> None:
        self._looks_until = time.monotonic() + self._look_seconds

    async def look(self, seconds: float, find: Callable[[], Awaitable[None]]) -> None:
        """Look for what other processes have left, until cancelled."""

        async def look_again() -> None:
            if time.monotonic() < self._looks_until:
                await find()

        await every(seconds, look_again, absence=f"No {self._kind} is made while the database is away")

    async def close(self) -> None:
        """Stop asking; other processes, or this one's successor, go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
