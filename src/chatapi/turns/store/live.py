"""The chunks of running turns, in the database, for readers in other processes.

Chunks are written at a bounded rate, not once a token. A turn's chunks are deleted when it ends: its message has all
of it then.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import RUNNING, WAITING, Conversation, Turn, TurnChunk, Wait
from chatapi.db.paging import MAX_ID
from chatapi.db.services import insert_unless_there
from chatapi.errors.base import restored
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.turns import TurnCancelled, TurnNotFound
from chatapi.turns.log import Outcome, TurnEvent
from chatapi.turns.replay import joined
from chatapi.turns.store import queue, waits
from chatapi.turns.store.alive import turn_is_alive
from chatapi.turns.store.queue import Queued
from chatapi.turns.store.rows import ABANDONED, answer_of, is_ours


class Chunk(Struct, frozen=True, kw_only=True):
    """Events of a run; `position` is the number of events before them."""

    turn_id: int
    run_id: str
    user_id: str
    position: int
    events: Sequence[TurnEvent]


class Place(Struct, frozen=True, kw_only=True):
    """How far a run has been read: up to the chunk before `position`."""

    user_id: str
    turn_id: int
    conversation_id: int
    run_id: str
    position: int


class Watched(NamedTuple):
    """Of the runs that were looked at: those to go on, and those whose chunks were stored."""

    going_on: set[str]
    written: set[str]


class Ending(NamedTuple):
    """How a turn ended, and the events that were stored of it, if any."""

    outcome: Outcome
    events: Sequence[TurnEvent] = ()


async def watch(session: AsyncSession, run_ids: Sequence[str], chunks: Sequence[Chunk]) -> Watched:
    """As `TurnStore.watch`, in a transaction that is under way."""
    going_on = await session.scalars(
        select(Turn.run_id).where(
            Turn.run_id.in_(run_ids), Turn.status == RUNNING, Turn.cancel_requested.is_(False)
        )
    )
    return Watched(going_on=set(going_on), written=await write(session, chunks) if chunks else set())


async def write(session: AsyncSession, chunks: Sequence[Chunk]) -> set[str]:
    """Store the chunks of runs that still have their turn; returns the ids of these runs."""
    held: set[str] = set()
    for chunk in chunks:  # one by one: each is locked at its owner's machine
        ours = is_ours(chunk.turn_id, chunk.user_id, chunk.run_id)
        running = select(Turn.run_id).where(ours).with_for_update(read=True, skip_locked=True)
        held.update(await session.scalars(running))
    if rows := [row_of(chunk) for chunk in chunks if chunk.run_id in held]:
        await session.execute(insert_unless_there(session, TurnChunk), rows)  # all in one round trip
    return held


async def read(session: AsyncSession, places: Collection[Place]) -> Sequence[Chunk]:
    """The chunks stored since these places, in order within each turn."""
    since = [
        and_(
            TurnChunk.user_id == place.user_id,
            TurnChunk.turn_id == place.turn_id,
            TurnChunk.run_id == place.run_id,
            TurnChunk.position >= place.position,
        )
        for place in places
    ]
    rows = await session.scalars(
        select(TurnChunk).where(or_(*since)).order_by(TurnChunk.turn_id, TurnChunk.position)
    )
    return [msgspec.convert(row, Chunk, from_attributes=True) for row in rows]


async def said(session: AsyncSession, run: Place) -> list[TurnEvent]:
    """The run's events from this place on, as far as they were stored."""
    return [event for chunk in await read(session, [run]) for event in chunk.events]


async def drop(session: AsyncSession, user_id: str, turn_id: int) -> None:
    """Delete the turn's chunks, in the transaction that ends the turn or runs it again and holds its row."""
    await session.execute(delete(TurnChunk).where(TurnChunk.turn_id == turn_id, TurnChunk.user_id == user_id))


async def find(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int | None
) -> Turn | Queued | None:
    """The turn with this id, or else the conversation's active turn, or the first that is queued; None without any.

    Raises `ConversationNotFound` and `TurnNotFound`.
    """
    await own_conversation(session, user_id, conversation_id)
    of_conversation = select(Turn).where(Turn.user_id == user_id, Turn.conversation_id == conversation_id)
    if turn_id is None:
        # In this order: a queued turn that begins between the two looks is seen by the second.
        row = await queue.first(session, user_id, conversation_id)
        active = await session.scalar(of_conversation.where(Turn.status == RUNNING, turn_is_alive))
        return active or (None if row is None else queue.place_of(row))
    queued = await queue.find(session, user_id, turn_id)
    if queued is not None and queued.conversation_id == conversation_id:
        return queued
    turn = None if turn_id > MAX_ID else await session.scalar(of_conversation.where(Turn.id == turn_id))
    if turn is None:
        raise TurnNotFound(turn_id)
    return turn


async def own_conversation(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """Raise `ConversationNotFound` when the conversation is not the user's."""
    mine = select(Conversation.id).where(Conversation.id == conversation_id, Conversation.user_id == user_id)
    if conversation_id > MAX_ID or await session.scalar(mine) is None:
        raise ConversationNotFound(conversation_id)


async def news_and_ends(
    session: AsyncSession, places: Sequence[Place]
) -> tuple[Sequence[Chunk], dict[str, Ending]]:
    """The chunks since these places, and the endings of the turns that have ended."""
    running = await session.scalars(
        select(Turn.run_id).where(
            Turn.run_id.in_([place.run_id for place in places]),
            Turn.status == RUNNING,
            Turn.worker_id != WAITING,
            turn_is_alive,
        )
    )
    alive = set(running)
    news = await read(session, places)
    ends = {place.run_id: await ending(session, place) for place in places if place.run_id not in alive}
    return news, ends


async def ending(session: AsyncSession, place: Place) -> Ending:
    turn = await session.scalar(select(Turn).where(Turn.id == place.turn_id, Turn.user_id == place.user_id))
    if turn is None:  # deleted with its conversation
        return Ending(TurnCancelled())
    if turn.waits or turn.run_id != place.run_id:
        of_run = select(Wait).where(
            Wait.turn_id == place.turn_id, Wait.user_id == place.user_id, Wait.run_id == place.run_id
        )
        if (wait := await session.scalar(of_run)) is not None:
            return Ending(await waits.told(session, wait), waits.shown_events(wait))
    if turn.run_id != place.run_id or turn.status == "running":
        return Ending(restored(ABANDONED))
    stored = await answer_of(session, turn)
    events = () if stored is None else stored.events
    if turn.status == "failed" and turn.error is not None:
        return Ending(restored(turn.error), events)
    if turn.status == "completed" and stored is not None:
        return Ending(stored.answer, events)
    return Ending(TurnCancelled(), events)


def row_of(chunk: Chunk) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(chunk),
        "events": msgspec.to_builtins(joined(chunk.events)),
    }
