"""The rows of the search index, as the plain transactions write them.

A message's rows are written with the message. The turn's own statements (`turns.store.postgres`, `turns.store.sqlite`) do
that by themselves.
"""

from typing import Any

from sqlalchemy import ColumnElement, Update, delete, func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.search.folding import NO_MESSAGE, TITLE, fold, folded_parts
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
    """Make a conversation's title searchable, in the place of the one before; None takes it out."""
    titles = (
        SearchText.user_id == user_id,
        SearchText.conversation_id == conversation_id,
        SearchText.part == TITLE,
    )
    if title is None:
        await session.execute(delete(SearchText).where(*titles))
        return
    words = fold(title)
    changed = update(SearchText).where(*titles).values(words=words).returning(SearchText.message_id)
    if not (await session.scalars(changed)).all():
        await place_title(session, user_id, conversation_id, words)


async def place_title(session: AsyncSession, user_id: str, conversation_id: int, words: str) -> None:
    """Insert the row of a title, folded, as a part of the conversation's first message.

    In a conversation without messages it waits for `attach_title`.
    """
    first = await session.scalar(
        select(Message.id)
        .where(Message.user_id == user_id, in_conversation(session, Message, conversation_id))
        .order_by(Message.conversation_id, Message.id)
        .limit(1)
    )
    key = (user_id, conversation_id, NO_MESSAGE if first is None else first, TITLE)
    indexed = insert_into(session, SearchText).values({**dict(zip(KEY, key, strict=True)), "words": words})
    await session.execute(
        indexed.on_conflict_do_update(index_elements=KEY, set_={"words": indexed.excluded.words})
    )


async def attach_title(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """If the conversation had a title before it had messages, make it a part of its newest message."""
    newest = select(func.max(Message.id)).where(
        Message.user_id == user_id, Message.conversation_id == conversation_id
    )
    await session.execute(attaching_title(user_id, conversation_id, newest.scalar_subquery()))


def attaching_title(user_id: Any, conversation_id: Any, message_id: ColumnElement[int]) -> Update:
    """The statement of `attach_title`, for values or for parameters; the database gives the message."""
    return (
        update(SearchText)
        .where(
            SearchText.user_id == user_id,
            SearchText.conversation_id == conversation_id,
            SearchText.message_id == literal_column(str(NO_MESSAGE)),
        )
        .values(message_id=message_id)
    )
