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
    """The request's session: one that only reads for a GET.

    For others it is in a transaction, which is committed before the response goes out and rolled back on any exception.
    """
    database: Database = state.database
    open_session = database.reading if request.method in {"GET", "HEAD"} else database.transaction
    async with open_session(request.user.user_id) as session:
        yield session
