"""A statement that is a transaction by itself: no BEGIN, no COMMIT, one round trip (PostgreSQL)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import BindParameter, Select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.sql.visitors import cloned_traverse

# In a session's `info`: an engine on the same pool that commits each statement, where one may stand alone.
AUTOCOMMIT = "autocommit"


class Statement:
    """One that is compiled once, because SQLAlchemy takes longer to look a large one up than PostgreSQL to run it.

    Its parameters are those without a value, and are given as the driver takes them. Those with a value are written
    into the statement, so that a plan that is kept can use an index on them.
    """

    def __init__(self, expression: Select[Any]) -> None:
        self._expression = expression

    @cached_property
    def _compiled(self) -> tuple[str, Sequence[str]]:
        compiled = cloned_traverse(self._expression, {}, {"bindparam": write_value}).compile(
            dialect=asyncpg.dialect(),  # type: ignore[no-untyped-call]
            compile_kwargs={"render_postcompile": True},
        )
        return str(compiled), compiled.positiontup

    async def run(self, session: AsyncSession, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """Run it alone if it may be, and otherwise in the session's transaction, where the owner is set."""
        sql, names = self._compiled
        parameters = tuple(values[name] for name in names)
        engine: AsyncEngine | None = session.info.get(AUTOCOMMIT)
        if engine is None:
            return (await (await session.connection()).exec_driver_sql(sql, parameters)).all()
        async with engine.connect() as connection:
            return (await connection.exec_driver_sql(sql, parameters)).all()


def write_value(parameter: BindParameter[Any]) -> None:
    parameter.literal_execute = parameter.value is not None
