"""The queue of a conversation: turns that begin when the one before has ended, in the order in which they came.

A queued turn is a row of `queued_turns` and not of `turns`: replicas of a version that knows no queue leave it alone. It
has the id of the turn that it becomes. Ids are given with the conversation locked, so their order is that of arrival.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Exists, and_, delete, exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import RUNNING, WAITING, QueuedTurn, Turn, now
from chatapi.db.paging import MAX_ID
from chatapi.db.services import insert_unless_there
from chatapi.errors.turns import QueueFull
from chatapi.turns.schemas import ChatRequest
from chatapi.turns.store.alive import turn_is_alive
from chatapi.turns.store.rows import Claim, Key

MOST = 8  # bounds what a caller can put into one conversation, and what its messages show of it
KEY_RETENTION = timedelta(hours=24)  # a client that retries does so within minutes
NEXT_ON_SQLITE = text("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'turns' RETURNING seq")

is_open = QueuedTurn.taken_out_at.is_(None)


class Queued(Struct, frozen=True, kw_only=True):
    """A turn with a place in the queue of its conversation."""

    user_id: str
    conversation_id: int
    turn_id: int


class QueueNews(NamedTuple):
    """Which of some queued turns have begun, which are queued still, and their conversations that nobody runs."""

    begun: dict[int, Turn]
    queued: set[int]
    stalled: set[tuple[str, int]]


class QueueLook(NamedTuple):
    """Everybody's conversations with a queue: those that nobody runs, and whether others run, or wait for an answer."""

    stalled: Sequence[tuple[str, int]]
    some_run: bool
    some_wait: bool


def queued_in(user_id: Any, conversation_id: Any) -> ColumnElement[bool]:
    """The rows that are queued in this conversation."""
    return and_(QueuedTurn.user_id == user_id, QueuedTurn.conversation_id == conversation_id, is_open)


def in_queue(user_id: Any, conversation_id: Any) -> Exists:
    """Whether something is queued in this conversation."""
    return exists().where(queued_in(user_id, conversation_id))


async def is_preceded(session: AsyncSession, place: Queued) -> bool:
    """Whether another turn is queued before this one."""
    before = select(QueuedTurn.id).where(
        queued_in(place.user_id, place.conversation_id), QueuedTurn.id < place.turn_id
    )
    return await session.scalar(before.limit(1)) is not None


async def is_followed(session: AsyncSession, user_id: str, conversation_id: int) -> bool:
    """Whether the conversation's turn under way has another behind it."""
    return bool(await session.scalar(select(in_queue(user_id, conversation_id))))


async def first(session: AsyncSession, user_id: str, conversation_id: int) -> QueuedTurn | None:
    """The turn that begins next."""
    found: QueuedTurn | None = await session.scalar(
        select(QueuedTurn).where(queued_in(user_id, conversation_id)).order_by(QueuedTurn.id).limit(1)
    )
    return found


async def find(session: AsyncSession, user_id: str, turn_id: int) -> Queued | None:
    """The queued turn with this id."""
    if turn_id > MAX_ID:
        return None
    row = await session.scalar(
        select(QueuedTurn).where(QueuedTurn.id == turn_id, QueuedTurn.user_id == user_id, is_open)
    )
    return None if row is None else place_of(row)


async def of_claim(session: AsyncSession, user_id: str, claim: Claim) -> Queued | None:
    """The turn that this claim has queued, if its COMMIT went through; it may have begun since.

    A turn that was queued without a key has begun with the claim's run id in the place of one.
    """
    row: QueuedTurn | Turn | None = await session.scalar(
        select(QueuedTurn).where(QueuedTurn.user_id == user_id, QueuedTurn.run_id == claim.run_id, is_open)
    )
    if row is None:
        row = await session.scalar(
            select(Turn).where(Turn.user_id == user_id, Turn.idempotency_key == claim.run_id)
        )
    return None if row is None else place_of(row)


async def add(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
) -> Queued | None:
    """Queue a turn, with the conversation locked; None if its key is there already. Raises `QueueFull`."""
    await session.execute(
        delete(QueuedTurn).where(
            QueuedTurn.user_id == user_id,
            QueuedTurn.conversation_id == conversation_id,
            QueuedTurn.taken_out_at < now() - KEY_RETENTION,
        )
    )
    count = select(func.count()).select_from(QueuedTurn).where(queued_in(user_id, conversation_id))
    if (await session.scalar(count) or 0) >= MOST:
        raise QueueFull(MOST)
    if session.get_bind().dialect.name == "postgresql":
        next_id: Any = func.nextval(func.pg_get_serial_sequence("turns", "id"))
    else:
        next_id = await session.scalar(NEXT_ON_SQLITE)
    columns = {
        "id": next_id,
        "user_id": user_id,
        "conversation_id": conversation_id,
        "run_id": claim.run_id,
        "idempotency_key": key and key.value,
        "request_hash": key and key.request_hash,
        "request": msgspec.to_builtins(request),
        "created_at": now(),
    }
    turn_id = await session.scalar(
        insert_unless_there(session, QueuedTurn, **columns).returning(QueuedTurn.id)
    )
    if turn_id is None:
        return None
    return Queued(user_id=user_id, conversation_id=conversation_id, turn_id=turn_id)


async def take_out(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int | None = None
) -> None:
    """Take out this turn, or all that are queued, with the conversation locked. Of a key the row stays, without its text."""
    which = [queued_in(user_id, conversation_id)]
    if turn_id is not None:
        which.append(QueuedTurn.id == turn_id)
    await session.execute(delete(QueuedTurn).where(*which, QueuedTurn.idempotency_key.is_(None)))
    await session.execute(update(QueuedTurn).where(*which).values(request=None, taken_out_at=now()))


async def news(session: AsyncSession, places: Sequence[Queued]) -> QueueNews:
    """What has become of these. A turn that neither has begun nor is queued has been taken out."""
    ids = [place.turn_id for place in places]
    rows = await session.execute(
        select(QueuedTurn.id, QueuedTurn.user_id, QueuedTurn.conversation_id, run_by()).where(
            QueuedTurn.id.in_(ids), is_open
        )
    )
    found = rows.all()
    queued = {turn_id for turn_id, *_ in found}
    # Read after the queue, so that a turn which begins between the two is found here.
    turns = await session.scalars(select(Turn).where(Turn.id.in_(set(ids) - queued)))
    stalled = {(user_id, conversation_id) for _, user_id, conversation_id, worker in found if worker is None}
    return QueueNews({turn.id: turn for turn in turns}, queued, stalled)


async def look(session: AsyncSession) -> QueueLook:
    """Look at everybody's queues."""
    rows = await session.execute(
        select(QueuedTurn.user_id, QueuedTurn.conversation_id, run_by()).where(is_open).distinct()
    )
    found = rows.all()
    workers = {worker for *_, worker in found} - {None}
    return QueueLook(
        stalled=[(user_id, conversation_id) for user_id, conversation_id, worker in found if worker is None],
        some_run=bool(workers - {WAITING}),
        some_wait=WAITING in workers,
    )


def run_by() -> ColumnElement[str | None]:
    """The worker that runs a turn in the queued turn's conversation, if that is alive."""
    return (
        select(Turn.worker_id)
        .where(
            Turn.user_id == QueuedTurn.user_id,
            Turn.conversation_id == QueuedTurn.conversation_id,
            Turn.status == RUNNING,
            turn_is_alive,
        )
        .scalar_subquery()
    )


def place_of(row: QueuedTurn | Turn) -> Queued:
    return Queued(user_id=row.user_id, conversation_id=row.conversation_id, turn_id=row.id)
