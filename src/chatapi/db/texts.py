"""Functions of text that the databases spell differently."""

from typing import Any

from sqlalchemy import ColumnElement, Integer, Text, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class position(FunctionElement[int]):  # noqa: N801 - SQL functions are written small
    """The place of a text in another, from 1 on; 0 if it is not there. No pattern, and no collation."""

    type = Integer()
    inherit_cache = True


@compiles(position, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"


@compiles(position, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


class plain(FunctionElement[str]):  # noqa: N801 - as above
    """A text that PostgreSQL compares with a column, but for which it looks into no index of the column's."""

    type = Text()
    inherit_cache = True


@compiles(plain, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'


@compiles(plain, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


def owned_by(owner: Any, user_id: str | ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a row that is joined by its id has this owner.

    Citus finds the row's machine by it. PostgreSQL must not use an index of owners for it: with stale statistics it would take
    all rows of the user for few, and read them first.
    """
    value = user_id if isinstance(user_id, ColumnElement) else literal(user_id, Text())
    has_value: ColumnElement[bool] = owner == plain(value)
    return has_value
