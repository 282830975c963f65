"""why a completed turn's answer ended, if not by itself

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-29 06:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("finish_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("turns", "finish_reason")
