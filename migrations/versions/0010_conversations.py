"""pinned and archived conversations, and metadata of their owners

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


def downgrade() -> None:
    op.create_index("ix_conversations_activity", "conversations", ["user_id", "updated_at", "id"])
    op.drop_index("ix_conversations_list", "conversations")
    op.drop_column("conversations", "metadata")
    op.drop_column("conversations", "pinned")
    op.drop_column("conversations", "archived")
