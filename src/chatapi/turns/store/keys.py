"""Idempotency keys: what is known of a request that comes with one."""

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import RUNNING, QueuedTurn, Turn, now
from chatapi.errors.turns import KeyInProgress, KeyReused, TurnCancelled, TurnInProgress
from chatapi.turns.store import queue
from chatapi.turns.store.queue import KEY_RETENTION
from chatapi.turns.store.rows import Key


async def turn_of_key(session: AsyncSession, user_id: str, key: Key) -> Turn | None:
    """The turn of this key; forgets a key that is past its retention."""
    turn = await session.scalar(
        select(Turn).where(Turn.user_id == user_id, Turn.idempotency_key == key.value)
    )
    if turn is None or turn.created_at > now() - KEY_RETENTION:
        return turn
    await session.execute(
        update(Turn).where(Turn.id == turn.id, Turn.user_id == user_id).values(idempotency_key=None)
    )
    return None


async def check_queue(session: AsyncSession, user_id: str, key: Key) -> None:
    """Raise `KeyReused`, `KeyInProgress` or `TurnCancelled` if a turn with this key is queued or was taken out."""
    row = await queue.of_key(session, user_id, key)
    if row is None:
        return
    if row.request_hash != key.request_hash:
        raise KeyReused
    if row.taken_out_at is not None:
        raise TurnCancelled().with_turn(row.id, row.conversation_id)
    raise key_in_progress(row)


async def who_was_first(
    session: AsyncSession, user_id: str, conversation_id: int, key: Key | None
) -> KeyInProgress | KeyReused | TurnInProgress:
    """Why a turn cannot begin: a request with the same key came between, or the conversation has a turn.

    Raises what `check_queue` raises.
    """
    if key is not None:
        if (turn := await turn_of_key(session, user_id, key)) is not None:
            return key_in_progress(turn) if turn.request_hash == key.request_hash else KeyReused()
        await check_queue(session, user_id, key)
    running = await session.scalar(
        select(Turn.id).where(
            Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == RUNNING
        )
    )
    if running is None and (row := await queue.first(session, user_id, conversation_id)) is not None:
        running = row.id
    error = TurnInProgress()
    # The other turn may have ended just now.
    return error if running is None else error.with_turn(running, conversation_id)


def key_in_progress(turn: Turn | QueuedTurn) -> KeyInProgress:
    return KeyInProgress().with_turn(turn.id, turn.conversation_id)
