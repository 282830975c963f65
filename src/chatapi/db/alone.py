"""A statement that is a transaction by itself: no BEGIN, no COMMIT, one round trip (PostgreSQL)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import BindParameter, Select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.visitors import cloned_traverse


class Statement:
    """One that is compiled once, because SQLAlchemy takes longer to look a large one up than PostgreSQL to run it.

    Its parameters are those without a value, and are given as the driver takes them. Those with a value are written
    into the statement, so that a plan that is kept can use an index on them.
    """

    def __init__(self, expression: Select[Any]) -> None:
        self._expression = expression

    @cached_property
    def _compiled(self) -> tuple[str, list[str]]:
        compiled = cloned_traverse(self._expression, {}, {"bindparam": write_value}).compile(
            dialect=asyncpg.dialect(),  # type: ignore[no-untyped-call]
            compile_kwargs={"render_postcompile": True},
        )
        return str(compiled), compiled.positiontup or []

    async def run(self, connection: AsyncConnection, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        sql, names = self._compiled
        return (await connection.exec_driver_sql(sql, tuple(values[name] for name in names))).all()


def write_value(parameter: BindParameter[Any]) -> None:
    parameter.literal_execute = parameter.value is not None
