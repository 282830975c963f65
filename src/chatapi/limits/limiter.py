"""Rate limits: moving windows for this process alone or, with Redis, for all replicas together.

docs/adr/0009-rate-limits.md explains the algorithm, what counts against an address, and operation without Redis.
"""

import math
import time
from collections.abc import Callable
from typing import Literal

from limits import RateLimitItem

from chatapi.context import current_request
from chatapi.errors.requests import RateLimited
from chatapi.limits.memory import OwnWindows
from chatapi.limits.redis import SharedWindows
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings

Kind = Literal["default", "chat", "search", "address"]
HEADERS = ("RateLimit-Policy", "RateLimit")


class Limiter:
    """The limits of the settings. A kind that is off or not configured limits nobody."""

    def __init__(
        self,
        settings: Settings,
        patience: Patience,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        of_users, of_chat, of_search = settings.limits
        self._limits = {
            kind: limit
            for kind, limit in (
                ("default", of_users),
                ("chat", of_chat),
                ("search", of_search),
                ("address", of_users),
            )
            if limit is not None
        }
        self._own = {kind: OwnWindows(limit, clock) for kind, limit in self._limits.items()}
        address = settings.redis_address
        self._shared = SharedWindows(address, patience) if address and self._limits else None

    async def hit(self, kind: Kind, identity: str) -> None:
        """Count a request of `identity` and announce the limit either way; raises `RateLimited` if it is one too many."""
        request = current_request.get()
        if request is not None and kind != "address":
            request.counted = True
        if (limit := self._limits.get(kind)) is None:
            return
        quota = await self._shared.hit(limit, kind, identity) if self._shared else None
        quota = quota or self._own[kind].hit(identity)
        self._metrics.rate_limit_hits.labels(kind, "allowed" if quota.allowed else "refused").inc()
        seconds = max(1, math.ceil(quota.reset))
        if request is not None and not (kind == "address" and quota.allowed):
            request.headers |= rate_limit_headers(kind, limit, quota.remaining, seconds)
        if not quota.allowed:
            raise RateLimited(
                f"The limit is {limit.amount} requests in {limit.get_expiry()} s; come again in {seconds} s.",
                retry_after=seconds,
                policy=kind,
            )

    async def give_back(self, kind: Kind, identity: str) -> None:
        """Uncount the last request of `identity`, and announce no limit."""
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


def announce(first: str, policies: str, left: str) -> None:
    """Put policies of another kind behind those of the request's headers; again, from `first` on, in their place."""
    if (request := current_request.get()) is None:
        return
    for name, items in zip(HEADERS, (policies, left), strict=True):
        before = request.headers.get(name, "").partition(f'"{first}"')[0].rstrip(", ")
        request.headers[name] = f"{before}, {items}" if before else items


def rate_limit_headers(kind: Kind, limit: RateLimitItem, remaining: int, seconds: int) -> dict[str, str]:
    """Structured fields (RFC 9651) as in draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4."""
    policy, left = HEADERS
    return {
        policy: f'"{kind}";q={limit.amount};w={limit.get_expiry()}',
        left: f'"{kind}";r={remaining};t={seconds}',
    }
