"""chunks of running turns, and turns that answer an earlier one anew

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-24 03:20:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ALTERNATIVE = sa.text("alternative_of IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "turn_chunks",
        sa.Column("turn_id", ID, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_turn_chunks_turn_id_turns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("turn_id", "run_id", "position", name=op.f("pk_turn_chunks")),
    )
    op.add_column("turns", sa.Column("alternative_of", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_turns_alternatives",
        "turns",
        ["user_id", "alternative_of"],
        postgresql_where=ALTERNATIVE,
        sqlite_where=ALTERNATIVE,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE turn_chunks ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE turn_chunks FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY own_rows ON turn_chunks USING (user_id = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )


def downgrade() -> None:
    op.drop_index("ix_turns_alternatives", "turns")
    op.drop_column("turns", "alternative_of")
    op.drop_table("turn_chunks")
