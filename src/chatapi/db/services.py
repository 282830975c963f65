"""The base class of our repository services, and the inserts that they share."""

from typing import Any

from advanced_alchemy.base import ModelProtocol
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypeVar

from chatapi.db.models import User

DISTRIBUTED = "chatapi.distributed"
ModelT = TypeVar("ModelT", bound=ModelProtocol)
RepositoryT = TypeVar("RepositoryT", bound=Any, default=Any)


class Service(SQLAlchemyAsyncRepositoryService[ModelT, RepositoryT]):
    """An Advanced Alchemy service that lets database errors through as they are.

    Advanced Alchemy would turn each into an IntegrityError and so into 409, a dead connection included;
    `db.failures` tells them apart by SQLSTATE instead. Values are complete after a flush, so nothing is re-read.
    """

    def __init__(self, session: AsyncSession, **options: Any) -> None:
        super().__init__(session=session, **{**options, "wrap_exceptions": False, "auto_refresh": False})

    @property
    def session(self) -> AsyncSession:
        return self.repository.session  # type: ignore[no-any-return]


def is_distributed(session: AsyncSession) -> bool:
    """Whether the database's tables are distributed over machines, so that a statement may not do all that PostgreSQL can."""
    return DISTRIBUTED in session.info


def insert_unless_there(
    session: AsyncSession, model: type[ModelProtocol], /, **values: Any
) -> postgresql.Insert | sqlite.Insert:
    """INSERT … ON CONFLICT DO NOTHING, which SQLAlchemy spells differently for each database."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(model).values(**values).on_conflict_do_nothing()
    return sqlite.insert(model).values(**values).on_conflict_do_nothing()


async def remember_user(session: AsyncSession, user_id: str) -> None:
    """Insert the user's row, which all of the user's rows reference, unless it is there."""
    await session.execute(insert_unless_there(session, User, id=user_id))
