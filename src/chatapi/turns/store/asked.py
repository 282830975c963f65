"""Turns by their ids alone, with what they were asked for; and how one is deleted."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import Usage
from chatapi.conversations.deletion import forget_messages, let_go_of_files
from chatapi.db.models import ADDED, Conversation, Message, QueuedTurn, Turn, Wait
from chatapi.db.paging import MAX_ID
from chatapi.errors.turns import TurnNotFound
from chatapi.turns.schemas import Asked, ChatRequest
from chatapi.turns.store import queue
from chatapi.turns.store.end import find_turn, touch_conversation, unqueue
from chatapi.turns.store.summaries import forget, reopen


class AskedTurn(Struct, frozen=True, kw_only=True):
    """A turn, begun or queued, and the requests that it answers.

    `asked` has these by the number of the wait that each has ended, 0 for the turn's beginning; there is none if a turn came
    through our own routes. `used` is what the turn had used when each of its waits began, and `went_on` the number of the last that was
    answered. `model` is None while the turn is queued.
    """

    turn_id: int
    conversation_id: int
    created_at: datetime
    model: str | None
    asked: Mapping[int, Asked]
    used: Mapping[int, Usage]
    went_on: int = 0


async def find(session: AsyncSession, user_id: str, turn_id: int) -> AskedTurn:
    """As `TurnStore.asked`, in a transaction that is under way."""
    if turn_id > MAX_ID:
        raise TurnNotFound(turn_id)
    row = await session.scalar(
        select(QueuedTurn).where(QueuedTurn.id == turn_id, QueuedTurn.user_id == user_id, queue.is_open)
    )
    if row is not None:
        asked = msgspec.convert(row.request, ChatRequest).asked
        return AskedTurn(
            turn_id=turn_id,
            conversation_id=row.conversation_id,
            created_at=row.created_at,
            model=None,
            asked={} if asked is None else {0: asked},
            used={},
        )
    # Read after the queue, so that a turn which begins between the two is found.
    turn = await find_turn(session, user_id, turn_id)
    if turn.was_added:  # it was never asked
        raise TurnNotFound(turn_id)
    found = await session.execute(
        select(Wait.number, Wait.usage, Wait.ended_by).where(Wait.turn_id == turn_id, Wait.user_id == user_id)
    )
    waits = found.all()
    return AskedTurn(
        turn_id=turn_id,
        conversation_id=turn.conversation_id,
        created_at=turn.created_at,
        model=turn.model,
        asked={int(number): msgspec.convert(asked, Asked) for number, asked in (turn.asked or {}).items()},
        used={number: msgspec.convert(used, Usage) for number, used, _ in waits if used is not None},
        went_on=max((number for number, _, ended_by in waits if ended_by == "answered"), default=0),
    )


async def place(session: AsyncSession, user_id: str, turn_id: int) -> tuple[int, int] | None:
    """The conversation of a turn that has begun, and the number of its last wait that was answered; None without one."""
    if turn_id > MAX_ID:
        return None
    went_on = (
        select(func.max(Wait.number))
        .where(Wait.turn_id == turn_id, Wait.user_id == user_id, Wait.ended_by == "answered")
        .scalar_subquery()
    )
    found = await session.execute(
        select(Turn.conversation_id, went_on).where(
            Turn.id == turn_id, Turn.user_id == user_id, Turn.worker_id != ADDED
        )
    )
    row = found.one_or_none()
    return None if row is None else (row[0], row[1] or 0)


async def remove(session: AsyncSession, user_id: str, turn_id: int, *, alone: bool) -> None:
    """As `TurnStore.remove`, in a transaction that is under way."""
    if await unqueue(session, user_id, turn_id):
        return
    turn = await find_turn(session, user_id, turn_id)
    conversation_id = turn.conversation_id
    await touch_conversation(session, user_id, conversation_id)
    await forget(session, user_id, conversation_id, turn_id)
    await reopen(session, user_id, conversation_id)
    messages = await session.scalars(
        select(Message.id).where(Message.turn_id == turn_id, Message.user_id == user_id)
    )
    gone = messages.all()
    await let_go_of_files(session, user_id, Turn.id == turn_id)
    await session.execute(delete(Turn).where(Turn.id == turn_id, Turn.user_id == user_id))
    await forget_messages(session, user_id, conversation_id, gone)
    rest = select(Turn.id).where(Turn.user_id == user_id, Turn.conversation_id == conversation_id).limit(1)
    is_followed = await queue.is_followed(session, user_id, conversation_id)
    if alone and not is_followed and await session.scalar(rest) is None:
        await session.execute(
            delete(Conversation).where(Conversation.id == conversation_id, Conversation.user_id == user_id)
        )
