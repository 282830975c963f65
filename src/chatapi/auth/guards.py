"""Guards: the conditions that a request must meet before its handler runs.

All guards are asynchronous: Litestar runs a synchronous one in a thread, which costs more than the guard itself.
"""

from collections.abc import Awaitable, Callable

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from chatapi.db.paging import MAX_ID
from chatapi.errors.auth import KeyNotAllowed, NotYourPath
from chatapi.errors.requests import NotFound

AsyncGuard = Callable[[ASGIConnection, BaseRouteHandler], Awaitable[None]]  # type: ignore[type-arg]

RESERVED = {"chat", "me"}  # the service's own path segments below /api


async def owns_path(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """The token's user must be the path's `user_id`."""
    if connection.path_params["user_id"] in RESERVED:
        raise NotFound("Nothing is served at this path.")
    if connection.path_params["user_id"] != connection.user.user_id:
        raise NotYourPath("The path's user is not the token's; GET /api/me says who you are.")


async def needs_no_user(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """An API key acts for its user everywhere, except on routes that need the user (`needs_user`)."""
    if handler.opt.get("needs_user") and connection.user.key_id is not None:
        raise KeyNotAllowed


async def ids_can_exist(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """A number in the path that cannot be an id names nothing: answer 404 before a database refuses it."""
    if any(isinstance(value, int) and not 0 < value <= MAX_ID for value in connection.path_params.values()):
        raise NotFound("There is nothing under this id.")


def all_of(*guards: AsyncGuard) -> AsyncGuard:
    """Combine guards into one, because Litestar copies the route's handler for each guard."""

    async def check(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        for guard in guards:
            await guard(connection, handler)

    return check
