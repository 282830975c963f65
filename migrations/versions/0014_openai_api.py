"""what turns were asked for through OpenAI's API, and the conversations that were made there

Revision ID: 0014
Revises: 0013
Create Date: 2026-11-29 13:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("conversations", sa.Column("source", sa.Text(), nullable=True))
    op.add_column("turns", sa.Column("asked", sa.JSON(), nullable=True))
    op.add_column("waits", sa.Column("usage", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("waits", "usage")
    op.drop_column("turns", "asked")
    op.drop_column("conversations", "source")
