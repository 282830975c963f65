"""files, and their names in the messages that they were sent with

Revision ID: 0011
Revises: 0010
Create Date: 2026-11-29 09:00:00
"""

import sqlalchemy as sa
from advanced_alchemy.types import DateTimeUTC
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WITHOUT_TURN = sa.text("turn_id IS NULL")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("turn_id", ID, nullable=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", DateTimeUTC(timezone=True), nullable=False),
        sa.Column("stored_at", DateTimeUTC(timezone=True), nullable=True),
        sa.Column("sent_at", DateTimeUTC(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_files_turn_id_turns"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_files_owner", "files", ["user_id", "id"])
    op.create_index("ix_files_turn", "files", ["turn_id"])
    op.create_index(
        "ix_files_without_turn",
        "files",
        ["created_at"],
        postgresql_where=WITHOUT_TURN,
        sqlite_where=WITHOUT_TURN,
    )
    op.add_column("messages", sa.Column("files", sa.JSON(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE files ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE files FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY own_rows ON files USING (user_id = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )


def downgrade() -> None:
    op.drop_column("messages", "files")
    op.drop_table("files")
