"""messages by turn and owner in one index, so that no plan reads all of an owner's messages instead

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-25 10:50:00
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_messages_turn", "messages", ["turn_id", "user_id"])
    op.drop_index("ix_messages_turn_id", "messages")


def downgrade() -> None:
    op.create_index("ix_messages_turn_id", "messages", ["turn_id"])
    op.drop_index("ix_messages_turn", "messages")
