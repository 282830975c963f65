"""turns that wait for answers

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-29 09:30:00
"""

import sqlalchemy as sa
from advanced_alchemy.types import DateTimeUTC
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = sa.text("ended_at IS NULL")
FOR_EVER = "9999-12-31 00:00:00+00:00"


def upgrade() -> None:
    op.create_table(
        "waits",
        sa.Column("turn_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("calls", sa.JSON(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=True),
        sa.Column("client_tools", sa.JSON(), nullable=False),
        sa.Column("began_at", DateTimeUTC(timezone=True), nullable=False),
        sa.Column("expires_at", DateTimeUTC(timezone=True), nullable=False),
        sa.Column("ended_at", DateTimeUTC(timezone=True), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_waits_turn_id_turns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("turn_id", "number", name=op.f("pk_waits")),
    )
    op.create_index("ix_waits_owner", "waits", ["user_id", "turn_id"])
    op.create_index("ix_waits_open", "waits", ["expires_at"], postgresql_where=OPEN, sqlite_where=OPEN)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE waits ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE waits FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY own_rows ON waits USING (user_id = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )
    # Replicas of the version before take a turn that waits for one that runs in this process, which never dies.
    lease_until = FOR_EVER if op.get_bind().dialect.name == "postgresql" else "9999-12-31 00:00:00.000000"
    op.execute(f"INSERT INTO workers (id, lease_until) VALUES ('waiting', '{lease_until}')")  # noqa: S608 - ours


def downgrade() -> None:
    op.execute("DELETE FROM workers WHERE id = 'waiting'")
    op.drop_table("waits")
