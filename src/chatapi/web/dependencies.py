"""The dependencies that controllers ask for."""

from collections.abc import AsyncIterator
from typing import Any

from litestar import Request
from litestar.datastructures import State
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.auth.tokens import Identity
from chatapi.db.database import Database


async def provide_session(
    request: Request[Identity, Any, State], state: State
) -> AsyncIterator[AsyncSession]:
    """The request's transaction: committed before the response goes out, rolled back on any exception."""
    database: Database = state.database
    reads_only = request.method in {"GET", "HEAD"}
    async with database.transaction(request.user.user_id, reads_only=reads_only) as session:
        yield session
