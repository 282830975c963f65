"""The rows of the search index, as the plain transactions write them.

A message's rows are written with the message. The turn's own statements (`turns.store.postgres`, `turns.store.sqlite`) do
that by themselves.
"""

from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.search.folding import TITLE, fold, folded_parts
from chatapi.db.models import Message, SearchText
from chatapi.db.paging import in_conversation
from chatapi.db.services import insert_into

KEY = ("user_id", "conversation_id", "message_id", "part")


def rows_of(user_id: str, conversation_id: int, message_id: int, text: str) -> list[dict[str, Any]]:
    key = {"user_id": user_id, "conversation_id": conversation_id, "message_id": message_id}
    return [{**key, "part": part, "words": words} for part, words in folded_parts(text)]


async def index_message(
    session: AsyncSession, user_id: str, conversation_id: int, message_id: int, text: str
) -> None:
    """Make a message that was stored just now searchable."""
    await session.execute(insert(SearchText), rows_of(user_id, conversation_id, message_id, text))


async def index_title(session: AsyncSession, user_id: str, conversation_id: int, title: str | None) -> None:
    """Make a conversation's title searchable, as a part of its first message; None takes it out."""
    if title is None:
        await session.execute(
            delete(SearchText).where(
                SearchText.user_id == user_id,
                SearchText.conversation_id == conversation_id,
                SearchText.part == TITLE,
            )
        )
        return
    first = await session.scalar(
        select(Message.id)
        .where(Message.user_id == user_id, in_conversation(session, Message, conversation_id))
        .order_by(Message.conversation_id, Message.id)
        .limit(1)
    )
    if first is None:
        return
    key = (user_id, conversation_id, first, TITLE)
    indexed = insert_into(session, SearchText).values(
        {**dict(zip(KEY, key, strict=True)), "words": fold(title)}
    )
    await session.execute(
        indexed.on_conflict_do_update(index_elements=KEY, set_={"words": indexed.excluded.words})
    )
