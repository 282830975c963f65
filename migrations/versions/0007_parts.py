"""the parts of a message

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-29 09:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("parts", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("messages", "parts")
