"""A statement that is a transaction by itself: no BEGIN, no COMMIT, one round trip (PostgreSQL).

Below SQLAlchemy's connection, which costs as much again as such a statement, but on its pool and with its errors.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import BindParameter, Select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.visitors import traverse

from chatapi.tracing import Tracing


class Statement:
    """One that is compiled once, because SQLAlchemy takes longer to look a large one up than PostgreSQL to run it.

    Its parameters are those without a value, and are given as the driver takes them. Those with a value are written
    into the statement, so that a plan that is kept can use an index on them.
    """

    def __init__(self, expression: Select[Any]) -> None:
        self._expression = expression

    @cached_property
    def compiled(self) -> tuple[str, list[str]]:
        """The text, and its parameters' names in their order."""
        traverse(self._expression, {}, {"bindparam": write_value})
        compiled = self._expression.compile(
            dialect=asyncpg.dialect(),  # type: ignore[no-untyped-call]
            compile_kwargs={"render_postcompile": True},
        )
        return str(compiled), compiled.positiontup or []


async def run(
    engine: AsyncEngine,
    opening: str | None,
    tracing: Tracing,
    statement: Statement,
    values: Mapping[str, Any],
) -> Sequence[Sequence[Any]]:
    """The statement's rows, by a connection from the engine's pool.

    Where the statement cannot be a transaction by itself, `opening` begins its transaction; it may be several statements without
    parameters, which go in one round trip. Raises what SQLAlchemy raises. A connection that anything went wrong on is
    not used again, so that nothing is left to be undone.
    """
    try:
        pooled = await engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error as error:  # which SQLAlchemy's own connections would wrap
        raise DBAPIError(None, None, error, connection_invalidated=True) from error
    driver: Any = pooled.driver_connection
    try:
        if opening is not None:
            await driver.execute(opening)
        sql, names = statement.compiled
        with tracing.statement("postgresql", sql):
            rows: Sequence[Sequence[Any]] = await driver.fetch(sql, *(values[name] for name in names))
        if opening is not None:
            await driver.execute("COMMIT")
    except BaseException as error:
        library = engine.dialect.loaded_dbapi.asyncpg
        # The latter is what the driver says between hearing that it is cut off and being so.
        lost = driver.is_closed() or isinstance(error, library.InternalClientError)
        pooled.invalidate()
        if isinstance(error, library.PostgresError | library.InterfaceError | library.InternalClientError):
            raise DBAPIError(None, None, error, connection_invalidated=lost) from error
        raise
    pooled.close()
    return rows


def write_value(parameter: BindParameter[Any]) -> None:
    parameter.literal_execute = parameter.value is not None
