"""row-level security: a second wall behind the owner in every query (PostgreSQL)

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-22 01:36:00
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OWNERS = {
    "users": "id",
    "conversations": "user_id",
    "turns": "user_id",
    "messages": "user_id",
    "tool_calls": "user_id",
    "tasks": "user_id",
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, owner in OWNERS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        # As a rule the service's role owns the tables.
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY own_rows ON {table} USING ({owner} = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in OWNERS:
        op.execute(f"DROP POLICY own_rows ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
