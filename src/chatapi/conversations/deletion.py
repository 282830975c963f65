"""Deletes many conversations at once, in short transactions.

A run may break off at any time: each conversation is deleted whole or not at all.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import ColumnElement, case, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.search.folding import TITLE
from chatapi.conversations.search.index import place_title
from chatapi.db.database import Database
from chatapi.db.models import Conversation, Feedback, File, SearchText, Turn
from chatapi.db.services import is_distributed


class Place(Struct, frozen=True):
    """A conversation and its owner."""

    id: int
    user_id: str


class Pieces(Struct, frozen=True, kw_only=True):
    """How much is deleted at a time."""

    batch: int = 25  # conversations in a transaction
    turns: int = 500  # of these conversations, in a statement with their messages and tool calls


PIECES = Pieces()


async def delete_many(
    database: Database,
    user_id: str,
    *,
    archived: bool = False,
    before: datetime | None = None,
    pieces: Pieces = PIECES,
) -> int:
    """Delete the user's conversations that are archived, or were last active before `before`, or both if both are asked.

    Returns their number. A turn under way in one of them finds its row gone and ends as cancelled.
    """
    which: list[ColumnElement[bool]] = [Conversation.user_id == user_id]
    if archived:
        which.append(Conversation.archived.is_(True))
    if before is not None:
        which.append(Conversation.updated_at < before)

    async def delete_some(session: AsyncSession) -> int:
        some = select(Conversation.id).where(*which).order_by(Conversation.id).limit(pieces.batch)
        ids = (await session.scalars(some.with_for_update())).all()
        if ids:
            await delete_in_pieces(session, [Place(id=id_, user_id=user_id) for id_ in ids], pieces.turns)
        return len(ids)

    count = 0
    while (gone := await database.run(user_id, delete_some)) > 0:
        count += gone
    return count


async def delete_in_pieces(session: AsyncSession, places: Sequence[Place], turns: int) -> None:
    """Delete these conversations; no statement deletes more than `turns` of their turns."""
    ids: dict[str, list[int]] = {}
    for each in places:
        ids.setdefault(each.user_id, []).append(each.id)
    for user_id, theirs in ids.items():
        of_user = Turn.user_id == user_id
        await let_go_of_files(session, user_id, Turn.conversation_id.in_(theirs))
        some = select(Turn.id).where(of_user, Turn.conversation_id.in_(theirs)).limit(turns)
        gone = delete(Turn).where(of_user, Turn.id.in_(some)).returning(Turn.id)
        while len((await session.scalars(gone)).all()) == turns:
            pass
        await session.execute(
            delete(Conversation).where(Conversation.user_id == user_id, Conversation.id.in_(theirs))
        )


async def let_go_of_files(session: AsyncSession, user_id: str, *which: ColumnElement[bool]) -> None:
    """Take the files from turns that are about to be deleted, whose conversations are locked.

    A foreign key does that, but Citus has none that sets a column to NULL.
    """
    if is_distributed(session):
        turns = select(Turn.id).where(Turn.user_id == user_id, *which)
        theirs = File.user_id == user_id
        await session.execute(update(File).where(theirs, File.turn_id.in_(turns)).values(turn_id=None))


async def forget_messages(
    session: AsyncSession, user_id: str, conversation_id: int, message_ids: Sequence[int]
) -> None:
    """Delete what hangs on single messages that were deleted: only a whole conversation takes it along.

    The title's row in the search index hangs on one, too, and then moves to another.
    """
    feedback, text = (
        delete(table).where(
            table.user_id == user_id,
            table.conversation_id == conversation_id,
            table.message_id.in_(message_ids),
        )
        for table in (Feedback, SearchText)
    )
    await session.execute(feedback)
    title = case((SearchText.part == TITLE, SearchText.words))  # null for the other rows
    for words in await session.scalars(text.returning(title)):
        if words is not None:
            await place_title(session, user_id, conversation_id, words)
