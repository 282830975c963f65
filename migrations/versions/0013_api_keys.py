"""API keys

Revision ID: 0013
Revises: 0012
Create Date: 2026-11-29 12:40:00
"""

import sqlalchemy as sa
from advanced_alchemy.types import DateTimeUTC
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("created_at", DateTimeUTC(timezone=True), nullable=False),
        sa.Column("expires_at", DateTimeUTC(timezone=True), nullable=True),
        sa.Column("last_used_at", DateTimeUTC(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_api_keys_owner", "api_keys", ["user_id", "id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE api_keys FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY own_rows ON api_keys USING (user_id = current_setting('chatapi.user_id', true) "
            "OR current_setting('chatapi.everyone', true) = 'on')"
        )
        # A key's owner is known only once its row is found, so its hash shows this one row, and changes none.
        op.execute(
            "CREATE POLICY found_by_hash ON api_keys FOR SELECT "
            "USING (hash = current_setting('chatapi.key_hash', true))"
        )


def downgrade() -> None:
    op.drop_table("api_keys")
