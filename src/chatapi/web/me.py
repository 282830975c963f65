"""The route that tells a caller whose token it has sent."""

from datetime import datetime

from litestar import Request, get
from litestar.datastructures import State
from msgspec import Struct

from chatapi.auth.tokens import Identity
from chatapi.openapi import problems


class Me(Struct, frozen=True, kw_only=True):
    """`expires_at` is the token's; it is null in demo mode."""

    user_id: str
    expires_at: datetime | None
    demo: bool


@get("/me", operation_id="me", summary="Who does my token say I am?", tags=["Identity"], responses=problems())
async def me(request: Request[Identity, None, State]) -> Me:
    identity = request.user
    return Me(user_id=identity.user_id, expires_at=identity.expires_at, demo=identity.demo)
