"""What controllers are given."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.auth.tokens import Identity
from chatapi.chat.service import Admit, ChatService
from chatapi.db.config import Database
from chatapi.web.limits import Limiter


async def provide_session(
    request: Request[Identity, Any, State], state: State
) -> AsyncIterator[AsyncSession]:
    """The request's transaction: committed before the response goes out, rolled back on any exception."""
    database: Database = state.database
    async with database.transaction(request.user.user_id) as session:
        yield session


def provide_chat(state: State) -> ChatService:
    chat: ChatService = state.chat
    return chat


def provide_admit(state: State, chat: NamedDependency[ChatService]) -> Admit:  # noqa: ARG001 - see below
    """Counts one message of a user; raises `RateLimited`.

    It has no need of `chat`; but Litestar provides what hangs on nothing in a task group, which costs more than both.
    """
    limiter: Limiter = state.limiter
    return partial(limiter.hit, "chat")
