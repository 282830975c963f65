"""what users' models used and cost, by day

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-29 09:00:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES: dict[str, sa.Column[Any]] = {
    "usage_days": sa.Column("model", sa.Text(), nullable=False),
    "usage_conversations": sa.Column("conversation_id", sa.BigInteger(), nullable=False),
}
COUNTED = ("turns", "input_tokens", "cached_input_tokens", "output_tokens", "cost_picodollars", "unpriced")


def upgrade() -> None:
    for table, key in TABLES.items():
        op.create_table(
            table,
            sa.Column("user_id", sa.Text(), nullable=False),
            sa.Column("day", sa.Date(), nullable=False),
            key,
            *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTED),
            sa.ForeignKeyConstraint(
                ["user_id"], ["users.id"], name=op.f(f"fk_{table}_user_id_users"), ondelete="CASCADE"
            ),
            sa.PrimaryKeyConstraint("user_id", "day", key.name, name=op.f(f"pk_{table}")),
        )
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(
                f"CREATE POLICY own_rows ON {table} USING (user_id = current_setting('chatapi.user_id', true) "
                "OR current_setting('chatapi.everyone', true) = 'on')"
            )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
