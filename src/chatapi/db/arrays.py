"""Arrays in JSON, which the databases search differently."""

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class array_has(FunctionElement[bool]):  # noqa: N801 - SQL functions are written small
    """Whether a JSON array of whole numbers has this one; false if there is no array."""

    type = Boolean()
    inherit_cache = True


@compiles(array_has, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    array, number = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST({number} AS text) IN (SELECT json_array_elements_text({array}))"


@compiles(array_has, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    array, number = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{number} IN (SELECT value FROM json_each({array}))"  # noqa: S608 - as above
