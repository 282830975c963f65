"""Conversations by how they were made, and how one is made that has no turn yet."""

from typing import Any

from sqlalchemy import ColumnElement, insert
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.metadata import check_metadata
from chatapi.conversations.schemas import Source
from chatapi.db.models import Conversation
from chatapi.db.services import insert_for_user


def is_from(source: Source | None) -> list[ColumnElement[bool]]:
    """The condition that a conversation was made so; none without a source."""
    if source is None:
        return []
    return [Conversation.source.is_(None) if source == "app" else Conversation.source == source]


async def make(session: AsyncSession, user_id: str, source: Source, metadata: dict[str, Any]) -> Conversation:
    """Make a conversation without turns; raises `Invalid` for metadata that is too large."""
    check_metadata(metadata)
    columns = Conversation.__table__.c
    values = {
        columns.user_id: user_id,
        columns.source: None if source == "app" else source,
        columns.metadata: metadata,
    }
    row = insert(Conversation).values(values).returning(Conversation)
    return await insert_for_user(session, user_id, row)
