"""What becomes of a message whose conversation is busy: it is refused, queued, or takes the place of what is under way."""

from typing import Literal, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import RUNNING, WAITING, Turn
from chatapi.turns.schemas import ChatRequest
from chatapi.turns.store import queue
from chatapi.turns.store.end import cancel_abandoned, end_wait, fail_abandoned
from chatapi.turns.store.keys import check_queue, turn_of_key, who_was_first
from chatapi.turns.store.queue import Queued
from chatapi.turns.store.rows import Claim, Ended, Key, turn_is_alive


class UnderWay(NamedTuple):
    """The conversation's running turn."""

    turn_id: int
    waits: bool
    is_asked_to_end: bool
    is_alive: bool


async def make_way(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
) -> list[Ended] | Queued:
    """Make way for a turn, with its conversation locked; returns its place in the queue if it cannot begin yet.

    Else returns the waits that have ended by this. A turn whose process has died is ended. Raises `TurnInProgress` and
    `QueueFull`; for keys `KeyInProgress`, `KeyReused` and `TurnCancelled`.
    """
    if key is not None and request.when_busy:  # a request with the same key may have come between
        if await turn_of_key(session, user_id, key) is not None:
            raise await who_was_first(session, user_id, conversation_id, key)
        await check_queue(session, user_id, key)
    turn = await under_way(session, user_id, conversation_id)
    if request.when_busy == "interrupt":
        await queue.take_out(session, user_id, conversation_id)
        if turn is not None and turn.is_alive and not turn.waits:
            await ask_to_end(session, user_id, turn.turn_id)
            return await in_queue(session, user_id, conversation_id, request, key, claim)
        return await end_at_once(session, user_id, conversation_id, turn, is_interrupted=True)
    queues = request.when_busy == "queue"
    is_busy = turn is not None and turn.is_alive and (queues or not turn.waits)
    if is_busy or await queue.is_followed(session, user_id, conversation_id):
        if queues:
            return await in_queue(session, user_id, conversation_id, request, key, claim)
        raise await who_was_first(session, user_id, conversation_id, key)
    return await end_at_once(session, user_id, conversation_id, turn, is_interrupted=False)


async def under_way(session: AsyncSession, user_id: str, conversation_id: int) -> UnderWay | None:
    found = await session.execute(
        select(Turn.id, Turn.worker_id, Turn.cancel_requested, turn_is_alive).where(
            Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == RUNNING
        )
    )
    row = found.one_or_none()
    return None if row is None else UnderWay(row[0], row[1] == WAITING, row[2], row[3])


async def in_queue(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
) -> Queued:
    """Queue the turn, unless a request with its key has come between in another conversation."""
    place = await queue.add(session, user_id, conversation_id, request, key, claim)
    if place is None:
        raise await who_was_first(session, user_id, conversation_id, key)
    return place


async def ask_to_end(session: AsyncSession, user_id: str, turn_id: int) -> None:
    """Ask the process that runs the turn to cancel it."""
    await session.execute(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id, Turn.status == RUNNING)
        .values(cancel_requested=True)
    )


async def end_at_once(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    turn: UnderWay | None,
    *,
    is_interrupted: bool,
) -> list[Ended]:
    """End a turn that waits for answers, or whose process has died; returns the wait that has ended by this."""
    if turn is None:
        return []
    if turn.waits:
        by: Literal["cancelled", "superseded"] = "cancelled" if turn.is_asked_to_end else "superseded"
        ended = await end_wait(session, user_id, turn.turn_id, by)
        return [] if ended is None else [ended]
    if is_interrupted:
        await cancel_abandoned(session, user_id, conversation_id, turn.turn_id)
    else:
        await fail_abandoned(session, Turn.id == turn.turn_id, Turn.user_id == user_id, ~turn_is_alive)
    return []
