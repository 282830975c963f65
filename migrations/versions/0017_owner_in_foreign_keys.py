"""the owner in each foreign key, so that PostgreSQL refuses a row that is tied to somebody else's turn

SQLite keeps its keys by id alone, since it can only change one by a copy of the whole table (docs/adr/0030). If a downgrade is cut
off, run it again to its end before you upgrade again.

Revision ID: 0017
Revises: 0016
Create Date: 2026-11-29 19:00:00
"""

import sqlalchemy as sa
from alembic import op

from chatapi.db.foreign_keys import replace_foreign_key
from chatapi.db.indexes import build_index, is_valid
from chatapi.settings import SettingsError

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# The tables with a foreign key to `turns`, and what becomes of their rows. `SET NULL` alone would take the owner, too.
ON_DELETE = {
    "messages": "CASCADE",
    "tool_calls": "CASCADE",
    "turn_chunks": "CASCADE",
    "waits": "CASCADE",
    "files": "SET NULL (turn_id)",
}
NEEDED = (15,)  # PostgreSQL has `SET NULL (column)` since then


def upgrade() -> None:
    dialect = op.get_bind().dialect
    if dialect.name != "postgresql":
        return
    if (dialect.server_version_info or NEEDED) < NEEDED:
        raise SettingsError("DATABASE_URL: chatapi needs PostgreSQL 15 or newer")
    # None on Citus and on partitions (deploy/partitioning.sql), whose keys have the owner already.
    without_owner = with_key_by(["turn_id"])
    if without_owner:
        # By id first: all new rows are at its end, where an index by owner would write to a page of each user.
        build_index("uq_turns_owner", "turns", ["id", "user_id"], unique=True)
    for table in without_owner:
        replace_foreign_key(
            table,
            "turns",
            f"fk_{table}_turn_id_turns",
            f"fk_{table}_user_id_turns",
            f"FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE {ON_DELETE[table]}",
        )


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    # Citus' tables and partitions have had such keys before, and could have no others.
    for table in with_key_by(["user_id", "turn_id"]) if is_valid("uq_turns_owner") else ():
        replace_foreign_key(
            table,
            "turns",
            f"fk_{table}_user_id_turns",
            f"fk_{table}_turn_id_turns",
            f"FOREIGN KEY (turn_id) REFERENCES turns (id) ON DELETE {ON_DELETE[table].removesuffix(' (turn_id)')}",
        )
    op.drop_index("uq_turns_owner", "turns", if_exists=True)


def with_key_by(columns: list[str]) -> list[str]:
    """The tables of which these columns are a foreign key."""
    inspector = sa.inspect(op.get_bind())
    return [
        table
        for table in ON_DELETE
        if any(key["constrained_columns"] == columns for key in inspector.get_foreign_keys(table))
    ]
