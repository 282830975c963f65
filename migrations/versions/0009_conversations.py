"""conversations that are pinned, archived and described, feedback on answers, and the text that is searched

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-29 09:00:00
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from chatapi.db.indexes import build_index

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


GUARDED = ["feedback", "search_text"]
# The key's index holds the words: a search reads nothing else. They are compared by bytes and never compressed. A table
# that is seldom changed is vacuumed late by default, and until then a search looks up each row in the table, too.
SEARCH_TEXT = """
CREATE TABLE search_text (
  user_id text NOT NULL,
  conversation_id bigint NOT NULL,
  message_id bigint NOT NULL,
  part smallint NOT NULL,
  words text COLLATE "C" NOT NULL,
  CONSTRAINT pk_search_text PRIMARY KEY (user_id, conversation_id, message_id, part) INCLUDE (words),
  CONSTRAINT fk_search_text_user_id_conversations
    FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE
) WITH (autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_vacuum_scale_factor = 0.02)
"""


def upgrade() -> None:
    add_columns()
    build_index("ix_conversations_title_due", "conversations", ["title_due"], where="title_due IS NOT NULL")
    # It takes the place of ix_conversations_activity, which stays for processes of the version before.
    build_index(
        "ix_conversations_list", "conversations", ["user_id", "archived", "pinned", "updated_at", "id"]
    )
    op.create_table(
        "feedback",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("rating", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            ["conversations.user_id", "conversations.id"],
            name=op.f("fk_feedback_user_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "conversation_id", "message_id", name=op.f("pk_feedback")),
    )
    op.create_table(
        "search_backfill",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("passes_left", sa.SmallInteger(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_backfill")),
    )
    # One pass for what is there, and one for what processes of the version before write until they are replaced.
    op.execute(
        "INSERT INTO search_backfill (id, passes_left, place, due_at) VALUES (1, 2, 0, CURRENT_TIMESTAMP)"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(SEARCH_TEXT)
        op.execute("ALTER TABLE search_text ALTER words SET STORAGE PLAIN")
        for table in GUARDED:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(
                f"CREATE POLICY own_rows ON {table} USING (user_id = current_setting('chatapi.user_id', true) "
                "OR current_setting('chatapi.everyone', true) = 'on')"
            )
    else:
        op.create_table(
            "search_text",
            sa.Column("user_id", sa.Text(), nullable=False),
            sa.Column("conversation_id", sa.BigInteger(), nullable=False),
            sa.Column("message_id", sa.BigInteger(), nullable=False),
            sa.Column("part", sa.SmallInteger(), nullable=False),
            sa.Column("words", sa.Text(), nullable=False),
            sa.ForeignKeyConstraint(
                ["user_id", "conversation_id"],
                ["conversations.user_id", "conversations.id"],
                name=op.f("fk_search_text_user_id_conversations"),
                ondelete="CASCADE",
            ),
            sa.PrimaryKeyConstraint(
                "user_id", "conversation_id", "message_id", "part", name=op.f("pk_search_text")
            ),
            sqlite_with_rowid=False,
        )


def add_columns() -> None:
    columns: list[sa.Column[Any]] = [
        sa.Column("archived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("metadata", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("titled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("title_due", sa.DateTime(timezone=True), nullable=True),
    ]
    # They stay when the build of an index fails, and are there already when the migration is run again.
    if_not_exists = True if op.get_bind().dialect.name == "postgresql" else None
    for column in columns:
        op.add_column("conversations", column, if_not_exists=if_not_exists)


def downgrade() -> None:
    op.drop_table("search_text")
    op.drop_table("search_backfill")
    op.drop_table("feedback")
    op.drop_index("ix_conversations_list", "conversations")
    op.drop_index("ix_conversations_title_due", "conversations")
    op.drop_column("conversations", "title_due")
    op.drop_column("conversations", "titled_at")
    op.drop_column("conversations", "metadata")
    op.drop_column("conversations", "pinned")
    op.drop_column("conversations", "archived")
