"""summaries of what conversations have said before their windows

Revision ID: 0016
Revises: 0015
Create Date: 2026-11-29 16:00:00
"""

import sqlalchemy as sa
from advanced_alchemy.types import DateTimeUTC
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summaries",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("turn_id", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("failures", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", DateTimeUTC(timezone=True), nullable=True),
        sa.Column("created_at", DateTimeUTC(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_summaries_user_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "conversation_id", "number", name=op.f("pk_summaries")),
    )
    op.create_index(
        "ix_summaries_due",
        "summaries",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE summaries ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE summaries FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY own_rows ON summaries USING (user_id = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )


def downgrade() -> None:
    op.drop_table("summaries")
