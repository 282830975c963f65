"""Who is counted: each user whose token is good, and each address that sends one that is not."""

from ipaddress import IPv6Address, ip_address, ip_network

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from chatapi.errors.auth import Unauthenticated
from chatapi.limits.limiter import Limiter


def network_of(address: str | None) -> str:
    """Whom an address stands for: of IPv6 a /64, which is what one subscriber is given (RFC 6177)."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return address or "local"  # a Unix socket has no address; a trusted proxy may name something else
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
