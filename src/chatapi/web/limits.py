"""Rate limits: moving windows, of this process alone or, with a Redis, of all replicas together.

Why this algorithm, what an address is counted for, and what happens without Redis: docs/adr/0011-rate-limits.md.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Literal, TypeVar

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from chatapi.context import current_request
from chatapi.errors import RateLimited, Unauthenticated
from chatapi.metrics import Metrics
from chatapi.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

Kind = Literal["default", "chat", "address"]
PREFIX = "chatapi"  # of every key in Redis
CONNECTIONS = 8  # to Redis; a command takes a fraction of a millisecond, and opening one is a burst of CPU
# One that is well answers in a millisecond, but the wait for one's turn in a busy event loop counts, too.
REDIS_SECONDS = 1.0
COOL_DOWN_SECONDS = 1.0  # between two looks whether Redis is back
HEADERS = ("RateLimit-Policy", "RateLimit")


class Quota(Struct, frozen=True):
    """What became of a hit; `reset` is in seconds until more is allowed."""

    allowed: bool
    remaining: int
    reset: float


class OwnWindows:
    """One limit's windows in this process: exact, because nothing awaits between the look and the entry.

    `limits` has such a storage too; it looks at every key on every hit (1.3 ms of CPU at 1,000 users).
    """

    def __init__(self, limit: RateLimitItem) -> None:
        self._limit = limit
        self._seconds = limit.get_expiry()
        self._windows: OrderedDict[str, deque[float]] = OrderedDict()  # the one hit last is the last

    def hit(self, identity: str) -> Quota:
        now = time.monotonic()
        self._forget(now)
        window = self._windows.setdefault(identity, deque())
        while window and window[0] <= now - self._seconds:
            window.popleft()
        if allowed := len(window) < self._limit.amount:
            window.append(now)
            self._windows.move_to_end(identity)
        return Quota(allowed, self._limit.amount - len(window), window[0] + self._seconds - now)

    def give_back(self, identity: str) -> None:
        """Take the last hit for none."""
        if window := self._windows.get(identity):
            window.pop()
        if not window:
            self._windows.pop(identity, None)

    def __len__(self) -> int:
        return len(self._windows)

    def _forget(self, now: float) -> None:
        """Drop the windows that have run out, so that memory is bounded by the callers of the last window."""
        while self._windows:
            identity, window = next(iter(self._windows.items()))
            if window[-1] > now - self._seconds:
                break
            del self._windows[identity]


class SharedWindows:
    """The windows that all replicas share in a Redis or Valkey, where each hit is one atomic script."""

    def __init__(self, url: str) -> None:
        self._storage = RedisStorage(
            f"async+{url}",
            implementation="redispy",
            key_prefix=PREFIX,
            max_connections=CONNECTIONS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=None,  # type: ignore[arg-type] # the process's own windows are the second try
        )
        errors = self._storage.base_exceptions
        self._failures: tuple[type[Exception], ...] = (
            *(errors if isinstance(errors, tuple) else (errors,)),
            OSError,
        )
        self._windows = MovingWindowRateLimiter(self._storage)
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._outage: asyncio.Task[None] | None = None

    async def hit(self, limit: RateLimitItem, kind: Kind, identity: str) -> Quota | None:
        """None while Redis is away: found out once, by time-out, and then known until it answers again."""

        async def hit() -> Quota:
            allowed = await self._windows.hit(limit, kind, identity)
            reset, remaining = await self._windows.get_window_stats(limit, kind, identity)
            return Quota(allowed, remaining, reset - time.time())

        return await self._unless_away(hit)

    async def give_back(self, limit: RateLimitItem, kind: Kind, identity: str) -> bool:
        """Take the last hit for none, unless Redis is away: whether it was there.

        `limits` has no word for that; a window is a list in Redis, and begins with the last hit.
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


class Limiter:
    """The limits of the settings. A kind that is off, or that is not configured, limits nobody."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        of_users, of_chat = settings.limits
        self._limits = {
            kind: limit
            for kind, limit in (("default", of_users), ("chat", of_chat), ("address", of_users))
            if limit is not None
        }
        self._own = {kind: OwnWindows(limit) for kind, limit in self._limits.items()}
        address = settings.redis_address
        self._shared = SharedWindows(address) if address and self._limits else None

    async def hit(self, kind: Kind, identity: str) -> None:
        """Count one request of `identity`; raises `RateLimited` when it is one too many, and tells either way."""
        if (limit := self._limits.get(kind)) is None:
            return
        quota = await self._shared.hit(limit, kind, identity) if self._shared else None
        quota = quota or self._own[kind].hit(identity)
        self._metrics.rate_limit_hits.labels(kind, "allowed" if quota.allowed else "refused").inc()
        seconds = max(1, math.ceil(quota.reset))
        if (request := current_request.get()) is not None and not (kind == "address" and quota.allowed):
            request.headers |= rate_limit_headers(kind, limit, quota.remaining, seconds)
        if not quota.allowed:
            raise RateLimited(
                f"The limit is {limit.amount} requests in {limit.get_expiry()} s; come again in {seconds} s.",
                retry_after=seconds,
                policy=kind,
            )

    async def give_back(self, kind: Kind, identity: str) -> None:
        """Take the last request of `identity` for none, and tell nothing of the limit."""
        if (limit := self._limits.get(kind)) is None:
            return
        if not (self._shared and await self._shared.give_back(limit, kind, identity)):
            self._own[kind].give_back(identity)
        if (request := current_request.get()) is not None:
            for name in HEADERS:
                request.headers.pop(name, None)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()


def rate_limit_headers(kind: Kind, limit: RateLimitItem, remaining: int, seconds: int) -> dict[str, str]:
    """Structured fields (RFC 9651) as in draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
    policy, left = HEADERS
    return {
        policy: f'"{kind}";q={limit.amount};w={limit.get_expiry()}',
        left: f'"{kind}";r={remaining};t={seconds}',
    }


class LimitOfMessages:
    """Implements `chat.service.MessageLimit`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def count(self, user_id: str) -> None:
        await self._limiter.hit("chat", user_id)

    async def give_back(self, user_id: str) -> None:
        await self._limiter.give_back("chat", user_id)


def network_of(address: str | None) -> str:
    """Whom an address stands for: of IPv6 a /64, which is what one subscriber is given (RFC 6177)."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return (
            address or "local"
        )  # a Unix socket has no address; a trusted proxy may have named something else
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)


class RefusedTokens(ASGIMiddleware):
    """Around authentication: what is refused there counts against the address that it came from.

    Requests with a good token don't, because many users share one address: a proxy, a company, a front end's server.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        try:
            await next_app(scope, receive, send)
        except Unauthenticated:
            # From the state, because Litestar copies what it is given for each route.
            limiter: Limiter = scope["litestar_app"].state.limiter
            await limiter.hit("address", network_of((scope.get("client") or (None,))[0]))
            raise


async def within_limits(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """A guard: every request of a user counts, but for routes that count for themselves (`limits_itself`)."""
    if not handler.opt.get("limits_itself"):
        limiter: Limiter = connection.app.state.limiter
        await limiter.hit("default", connection.user.user_id)
