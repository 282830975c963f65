"""The windows that all replicas share."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from chatapi.limits.memory import Quota
from chatapi.patience import Patience

log = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "chatapi"  # of every key in Redis
CONNECTIONS = 8  # to Redis; a command takes a fraction of a millisecond, opening a connection a burst of CPU
COOL_DOWN_SECONDS = 1.0  # between two checks whether Redis is back


class SharedWindows:
    """The shared windows in a Redis or Valkey, where each hit is one atomic script."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix=PREFIX,
            max_connections=CONNECTIONS,
            socket_timeout=patience.redis,
            socket_connect_timeout=patience.redis,
            retry=None,  # type: ignore[arg-type] # a failed command falls back to the process's own windows
        )
        errors = self._storage.base_exceptions
        its_own = errors if isinstance(errors, tuple) else (errors,)
        self._failures: tuple[type[Exception], ...] = (*its_own, OSError)
        self._windows = MovingWindowRateLimiter(self._storage)
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._outage: asyncio.Task[None] | None = None

    async def hit(self, limit: RateLimitItem, kind: str, identity: str) -> Quota | None:
        """Count a hit. None while Redis is away: one time-out finds that out, and later calls do not wait for it."""

        async def hit() -> Quota:
            allowed = await self._windows.hit(limit, kind, identity)
            reset, remaining = await self._windows.get_window_stats(limit, kind, identity)
            return Quota(allowed, remaining, reset - time.time())

        return await self._unless_away(hit)

    async def give_back(self, limit: RateLimitItem, kind: str, identity: str) -> bool:
        """Uncount the last hit; False if Redis is away.

        `limits` has no function for that; a window is a list in Redis that begins with the last hit.
        """

        async def take_out() -> bool:
            await self._connection.lpop(self._storage.bridge.prefixed_key(limit.key_for(kind, identity)))
            return True

        return await self._unless_away(take_out) or False

    async def _unless_away(self, command: Callable[[], Awaitable[T]]) -> T | None:
        async with self._connections:
            if self._outage is not None:
                return None
            try:
                return await command()
            except self._failures as error:
                self._begin_outage(error)
                return None

    @property
    def _connection(self) -> Any:
        return self._storage.bridge.get_connection()  # type: ignore[attr-defined] # of one of its kinds

    async def close(self) -> None:
        if self._outage is not None:
            self._outage.cancel()
        await self._connection.aclose()

    def _begin_outage(self, error: Exception) -> None:
        if self._outage is None:
            log.warning(
                "Redis is away (%s); until it is back, each process counts for itself", type(error).__name__
            )
            self._outage = asyncio.create_task(self._wait_until_back())

    async def _wait_until_back(self) -> None:
        back = False
        while not back:
            await asyncio.sleep(COOL_DOWN_SECONDS)
            back = await self._storage.check()
        self._outage = None
        log.warning("Redis is back; the limits are shared again")
