"""Idempotency keys: what is known of a request that comes with one."""

from sqlalchemy import and_, delete, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import RUNNING, QueuedTurn, Turn, now
from chatapi.errors.turns import KeyInProgress, KeyReused, TurnCancelled, TurnInProgress
from chatapi.turns.store import queue
from chatapi.turns.store.queue import KEY_RETENTION
from chatapi.turns.store.rows import Key


async def turn_of_key(session: AsyncSession, user_id: str, key: Key) -> Turn | None:
    """The turn that has begun with this key; forgets a key that is past its retention.

    Raises `KeyReused`, `KeyInProgress` or `TurnCancelled` if a turn with this key is queued or was taken out.
    """
    turn, queued = await look_up(session, user_id, key)
    since = now() - KEY_RETENTION
    if turn is not None and turn.created_at > since:
        return turn
    if turn is not None:
        of_turn = Turn.id == turn.id, Turn.user_id == user_id
        await session.execute(update(Turn).where(*of_turn).values(idempotency_key=None))
    if queued is None:
        return None
    if queued.taken_out_at is not None and queued.taken_out_at <= since:
        of_row = QueuedTurn.id == queued.id, QueuedTurn.user_id == user_id
        await session.execute(delete(QueuedTurn).where(*of_row))
        return None
    if queued.request_hash != key.request_hash:
        raise KeyReused
    if queued.taken_out_at is not None:
        raise TurnCancelled().with_turn(queued.id, queued.conversation_id)
    raise key_in_progress(queued)


async def look_up(session: AsyncSession, user_id: str, key: Key) -> tuple[Turn | None, QueuedTurn | None]:
    """The turn of this key, and the row of the queue, which may be taken out; by one statement."""
    found = await session.execute(
        select(Turn, QueuedTurn)
        .select_from(select(literal(1)).subquery("one"))
        .outerjoin(Turn, and_(Turn.user_id == user_id, Turn.idempotency_key == key.value))
        .outerjoin(QueuedTurn, and_(QueuedTurn.user_id == user_id, QueuedTurn.idempotency_key == key.value))
    )
    turn, queued = found.one()
    return turn, queued


async def who_was_first(
    session: AsyncSession, user_id: str, conversation_id: int, key: Key | None
) -> KeyInProgress | KeyReused | TurnInProgress:
    """Why a turn cannot begin: a request with the same key came between, or the conversation has a turn.

    Raises what `turn_of_key` raises.
    """
    if key is not None and (turn := await turn_of_key(session, user_id, key)) is not None:
        return key_in_progress(turn) if turn.request_hash == key.request_hash else KeyReused()
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
