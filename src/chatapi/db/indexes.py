"""Indexes that a migration builds on a table that may be large, while others write to it."""

from collections.abc import Sequence

from alembic import op
from sqlalchemy import text


def build_index(
    name: str, table: str, columns: Sequence[str], *, where: str | None = None, unique: bool = False
) -> None:
    """Build an index; on PostgreSQL outside of a transaction, so that nobody who writes has to wait.

    The migration's statements before this are committed. If a build fails, the whole migration is run again, so these
    statements must be ones that can be repeated. PostgreSQL leaves an invalid index then; the next build takes its place. A valid one stays.
    """
    condition = None if where is None else text(where)
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(name, table, columns, unique=unique, sqlite_where=condition)
        return
    with op.get_context().autocommit_block():
        if is_valid(name):
            return
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            name, table, columns, unique=unique, postgresql_where=condition, postgresql_concurrently=True
        )


def is_valid(name: str) -> bool:
    """Whether the index is there and whole."""
    found = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().scalar(found, {"name": name}))
