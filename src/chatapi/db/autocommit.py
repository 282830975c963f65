"""Runs a statement that is compiled once (PostgreSQL): as a transaction by itself, without BEGIN and COMMIT, or within one.

It bypasses SQLAlchemy's connection, which costs as much again as such a statement, but uses its pool and its errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from sqlalchemy import BindParameter, Dialect, PoolProxiedConnection, Select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.sql.visitors import iterate

from chatapi.tracing import Tracing


class Statement:
    """A statement that is compiled once: SQLAlchemy takes longer to look up a large one than PostgreSQL to run it.

    Parameters without a value are given with each run, as the driver takes them. Parameters with a value are written
    into the statement, so that a plan that is kept can use an index on them.
    """

    def __init__(self, expression: Select[Any]) -> None:
        self._expression = expression

    @cached_property
    def compiled(self) -> tuple[str, list[str]]:
        """The text, and its parameters' names in their order."""
        # Other statements share parts of the expression, and have the values of those as parameters.
        with written_values(self._expression):
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
    """Run the statement on a connection from the engine's pool; returns its rows.

    If the statement cannot be a transaction by itself, `opening` begins its transaction. It may be several statements
    without parameters, which go in one round trip. Raises what SQLAlchemy raises. A connection is not used again
    after any error, so that nothing is left to be undone.
    """
    try:
        pooled = await engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error as error:  # SQLAlchemy's own connections would wrap it
        raise DBAPIError(None, None, error, connection_invalidated=True) from error
    with driver_of(pooled, engine.dialect) as driver:
        if opening is not None:
            await driver.execute(opening)
        rows = await fetch(driver, tracing, statement, values)
        if opening is not None:
            await driver.execute("COMMIT")
    pooled.close()
    return rows


async def run_within(
    session: AsyncSession, tracing: Tracing, statement: Statement, values: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    """Run the statement in the session's transaction, if that has sent anything yet; otherwise it is one by itself.

    Returns its rows, and raises, as `run` does.
    """
    connection = await session.connection()
    with driver_of(await connection.get_raw_connection(), connection.dialect) as driver:
        return await fetch(driver, tracing, statement, values)


async def fetch(
    driver: Any, tracing: Tracing, statement: Statement, values: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    sql, names = statement.compiled
    with tracing.statement("postgresql", sql):
        rows: Sequence[Sequence[Any]] = await driver.fetch(sql, *(values[name] for name in names))
    return rows


@contextmanager
def driver_of(pooled: PoolProxiedConnection, dialect: Dialect) -> Iterator[Any]:
    """The driver's connection; its errors are raised as SQLAlchemy does, and end the connection."""
    driver: Any = pooled.driver_connection
    try:
        yield driver
    except BaseException as error:
        library = dialect.loaded_dbapi.asyncpg
        # asyncpg raises InternalClientError after it hears that the connection is cut off and before it is closed.
        lost = driver.is_closed() or isinstance(error, library.InternalClientError)
        pooled.invalidate()
        if isinstance(error, library.PostgresError | library.InterfaceError | library.InternalClientError):
            raise DBAPIError(None, None, error, connection_invalidated=lost) from error
        raise


@contextmanager
def written_values(expression: Select[Any]) -> Iterator[None]:
    """Have values written into a statement that is compiled in the block."""
    parameters = [
        part
        for part in iterate(expression)
        if isinstance(part, BindParameter) and part.value is not None and not part.literal_execute
    ]
    for parameter in parameters:
        parameter.literal_execute = True
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.literal_execute = False
