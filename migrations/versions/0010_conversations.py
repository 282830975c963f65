"""conversations that are pinned, archived and described, and feedback on answers

Revision ID: 0010
Revises: 0006
Create Date: 2026-11-29 09:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0006"
branch_labels = None
depends_on = None


GUARDED = ["feedback"]


def upgrade() -> None:
    op.add_column(
        "conversations", sa.Column("archived", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column(
        "conversations", sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("conversations", sa.Column("metadata", sa.JSON(), server_default="{}", nullable=False))
    # It takes the place of an index that each turn writes twice. Until they are replaced, processes of the version before
    # sort their user's conversations.
    op.create_index(
        "ix_conversations_list", "conversations", ["user_id", "archived", "pinned", "updated_at", "id"]
    )
    op.drop_index("ix_conversations_activity", "conversations")
    op.create_table(
        "feedback",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("rating", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_feedback_user_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "conversation_id", "message_id", name=op.f("pk_feedback")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in GUARDED:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(
                f"CREATE POLICY own_rows ON {table} USING (user_id = current_setting('chatapi.user_id', true) "
                "OR current_setting('chatapi.everyone', true) = 'on')"
            )


def downgrade() -> None:
    op.drop_table("feedback")
    op.create_index("ix_conversations_activity", "conversations", ["user_id", "updated_at", "id"])
    op.drop_index("ix_conversations_list", "conversations")
    op.drop_column("conversations", "metadata")
    op.drop_column("conversations", "pinned")
    op.drop_column("conversations", "archived")
