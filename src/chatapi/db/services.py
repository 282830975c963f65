"""The base class of our repository services, and the inserts that they share."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from advanced_alchemy.base import ModelProtocol
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from sqlalchemy import insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert
from typing_extensions import TypeVar

from chatapi.db.models import User, now

DISTRIBUTED = "chatapi.distributed"
ModelT = TypeVar("ModelT", bound=ModelProtocol)
Upsert: TypeAlias = postgresql.Insert | sqlite.Insert
T = TypeVar("T")
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


def writes_together(session: AsyncSession) -> bool:
    """Whether one statement may write into several tables: on PostgreSQL, unless the tables are distributed."""
    return session.get_bind().dialect.name == "postgresql" and not is_distributed(session)


def insert_into(session: AsyncSession, model: type[ModelProtocol]) -> Upsert:
    """An INSERT that may say ON CONFLICT, which SQLAlchemy spells differently for each database."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(model)
    return sqlite.insert(model)


def insert_unless_there(session: AsyncSession, model: type[ModelProtocol], /, **values: Any) -> Upsert:
    """INSERT … ON CONFLICT DO NOTHING."""
    return insert_into(session, model).values(**values).on_conflict_do_nothing()


async def insert_in_order(
    session: AsyncSession, model: type[Any], rows: Sequence[Mapping[str, Any]]
) -> Sequence[int]:
    """Insert rows of one user, and return their ids in the same order.

    On several machines one by one: SQLAlchemy's statement for all is an INSERT ... SELECT.
    """
    if is_distributed(session):
        one_by_one = [insert(model).values(row).returning(model.id) for row in rows]
        return [(await session.execute(each)).scalar_one() for each in one_by_one]
    together = insert(model).returning(model.id, sort_by_parameter_order=True)
    return (await session.scalars(together, list(rows))).all()


async def insert_for_user(session: AsyncSession, user_id: str, row: ReturningInsert[T]) -> T:
    """Insert a row of the user, and the user's own unless it is there; by one statement on PostgreSQL."""
    if writes_together(session):
        # Of such a statement, SQLAlchemy (2.1) forgets the columns' defaults, and would take both tables' moments for one.
        at = now()
        moments = [column for column in row.table.c if column.name in {"created_at", "updated_at"}]
        user = select(literal(user_id), literal(at, User.created_at.type))
        remembered = postgresql.insert(User).from_select(["id", "created_at"], user, include_defaults=False)
        row = row.values(dict.fromkeys(moments, at)).add_cte(
            remembered.on_conflict_do_nothing().cte("remembered")
        )
    else:
        await remember_user(session, user_id)
    return (await session.execute(row)).scalar_one()


async def remember_user(session: AsyncSession, user_id: str) -> None:
    """Insert the user's row, which all of the user's rows reference, unless it is there."""
    await session.execute(insert_unless_there(session, User, id=user_id))
