"""state that a model's provider needs to go on with a conversation

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-22 09:30:00.000000
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("provider_state", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("messages", "provider_state")
