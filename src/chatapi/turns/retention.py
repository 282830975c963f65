"""Conversations in which nothing has happened for long are deleted, in short transactions.

No statement looks at more than a window of ids, and no transaction deletes more than a batch. A run may break off at
any time: each conversation is deleted whole or not at all, and the next run continues.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.audit import audit
from chatapi.conversations.deletion import Place, delete_in_pieces
from chatapi.db.database import Database
from chatapi.db.models import RUNNING, Conversation, Turn
from chatapi.db.owner import EVERYONE
from chatapi.turns.store.alive import turn_is_alive


class Pieces(Struct, frozen=True, kw_only=True):
    """How much is done at a time."""

    window: int = 5_000  # conversations looked at in a statement: a fraction of a second, by the primary key
    batch: int = 25  # conversations deleted in a transaction
    turns: int = 500  # of these conversations, deleted in a statement with their messages and tool calls


PIECES = Pieces()


async def expire(
    database: Database, before: datetime, *, dry_run: bool = False, pieces: Pieces = PIECES
) -> int:
    """Delete the conversations that were last active before `before`; returns their number.

    A conversation is left alone if a turn is under way in it or begins meanwhile. With `dry_run` nothing is deleted.
    Raises `DatabaseUnavailable`.
    """
    count = 0
    async for idle in windows(database, before, pieces):
        if dry_run:
            count += len(idle)
            continue
        for start in range(0, len(idle), pieces.batch):
            count += await expire_some(database, idle[start : start + pieces.batch], before, pieces)
    return count


async def windows(database: Database, before: datetime, pieces: Pieces) -> AsyncIterator[list[Place]]:
    """Yield conversations that may be deleted, one window of all conversations at a time."""
    after = 0
    while True:
        until, found = await database.run(
            EVERYONE, partial(look, after=after, before=before, window=pieces.window)
        )
        if until is None:
            return
        yield found
        after = until


async def look(
    session: AsyncSession, *, after: int, before: datetime, window: int
) -> tuple[int | None, list[Place]]:
    """The last id of the window after `after`, or None at the end, and those in it that may be deleted."""
    seen = select(Conversation.id).where(Conversation.id > after).order_by(Conversation.id).limit(window)
    until = await session.scalar(select(func.max(seen.subquery().c.id)))
    if until is None:
        return None, []
    found = (
        select(Conversation.id, Conversation.user_id)
        .where(Conversation.id.between(after + 1, until), idle_since(before, Conversation.user_id))
        .order_by(Conversation.id)
    )
    return until, [Place(id=id_, user_id=user_id) for id_, user_id in await session.execute(found)]


async def expire_some(database: Database, places: Sequence[Place], before: datetime, pieces: Pieces) -> int:
    gone = await database.run(EVERYONE, lambda session: delete_idle(session, places, before, pieces))
    for each in gone:
        audit("conversation.expired", "success", user_id=each.user_id, conversation_id=each.id)
    return len(gone)


async def delete_idle(
    session: AsyncSession, places: Sequence[Place], before: datetime, pieces: Pieces
) -> list[Place]:
    """Delete the conversations that are still idle; skip those that are locked, because they are in use."""
    idle = []
    for user_id in dict.fromkeys(each.user_id for each in places):
        ids = [each.id for each in places if each.user_id == user_id]
        still = await session.scalars(
            select(Conversation.id)
            .where(Conversation.user_id == user_id, Conversation.id.in_(ids), idle_since(before, user_id))
            .with_for_update(skip_locked=True)
        )
        idle += [Place(id=id_, user_id=user_id) for id_ in still]
    if idle:
        await delete_in_pieces(session, idle, pieces.turns)
    return idle


def idle_since(before: datetime, user_id: Any) -> ColumnElement[bool]:
    """`user_id` is the owner, or for everybody's conversations the column that has it."""
    under_way = exists().where(
        Turn.user_id == user_id,
        Turn.conversation_id == Conversation.id,
        Turn.status == RUNNING,
        turn_is_alive,
    )
    return and_(Conversation.updated_at < before, ~under_way)
