"""where the window of a conversation begins

Revision ID: 0015
Revises: 0014
Create Date: 2026-11-29 16:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("conversations", sa.Column("window_after", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("conversations", "window_after")
