"""Counts requests: by user if the token is good, by address if it is not."""

from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address, ip_network

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from chatapi.context import current_request
from chatapi.errors.auth import Unauthenticated
from chatapi.limits.limiter import Limiter


def network_of(address: str | None) -> str:
    """The network to count an address by: for IPv6 its /64, which is what one subscriber gets (RFC 6177)."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return address or "local"  # a Unix socket has no address; a trusted proxy may name something else
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)


class RefusedTokens(ASGIMiddleware):
    """Wraps authentication: a request that it refuses counts against its address.

    Requests with a good token do not, because many users share an address: a proxy, a company, a front end's server.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        try:
            await next_app(scope, receive, send)
        except Unauthenticated:
            await self._limiter.hit("address", network_of((scope.get("client") or (None,))[0]))
            raise


async def within_limits(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """A guard that counts every request of a user, except on routes that count themselves (`limits_itself`).

    `count_errors` counts the requests to those routes that are not valid.
    A route with a limit of its own names it (`limit="search"`).
    """
    if not handler.opt.get("limits_itself"):
        limiter: Limiter = connection.app.state.limiter
        await limiter.hit(handler.opt.get("limit", "default"), connection.user.user_id)


def count_errors(limiter: Limiter) -> Callable[[Exception, Scope], Awaitable[None]]:
    """Make the hook that counts a user's request which ended in an error before its route counted it.

    The hook raises `RateLimited` in place of the error if the request is one too many.
    """

    async def count(_: Exception, __: Scope) -> None:
        request = current_request.get()
        if request is not None and request.user_id is not None and not request.counted:
            await limiter.hit("default", request.user_id)

    return count
