"""turns that are queued

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-29 10:00:00
"""

import sqlalchemy as sa
from advanced_alchemy.types import DateTimeUTC
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queued_turns",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=True),
        sa.Column("request", sa.JSON(), nullable=True),
        sa.Column("created_at", DateTimeUTC(timezone=True), nullable=False),
        sa.Column("taken_out_at", DateTimeUTC(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_queued_turns_user_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queued_turns")),
        sa.UniqueConstraint("user_id", "idempotency_key", name="uq_queued_turns_idempotency_key"),
    )
    op.create_index("ix_queued_turns_conversation", "queued_turns", ["user_id", "conversation_id", "id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE queued_turns ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE queued_turns FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY own_rows ON queued_turns USING (user_id = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )


def downgrade() -> None:
    op.drop_table("queued_turns")
