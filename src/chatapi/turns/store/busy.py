"""How a conversation stands when a message comes, and what becomes of it if the conversation is busy.

It is refused, queued, or takes the place of what is under way.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Select, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import RUNNING, WAITING, Turn, now
from chatapi.turns.measures import measuring
from chatapi.turns.schemas import ChatRequest
from chatapi.turns.store import queue
from chatapi.turns.store.alive import turn_is_alive
from chatapi.turns.store.end import cancel_abandoned, end_wait, fail_abandoned
from chatapi.turns.store.history import History, select_shown, to_history
from chatapi.turns.store.keys import turn_of_key, who_was_first
from chatapi.turns.store.queue import Queued
from chatapi.turns.store.rows import Claim, Ended, Key
from chatapi.turns.store.window import edge_of


class UnderWay(NamedTuple):
    """The conversation's running turn."""

    turn_id: int
    waits: bool
    is_asked_to_end: bool
    is_alive: bool


class Standing(NamedTuple):
    """How a conversation stands: its running turn, whether others are queued, and the history that a turn is shown now."""

    turn: UnderWay | None
    is_followed: bool
    history: History


async def standing_of(
    session: AsyncSession, user_id: str, conversation_id: int, claim: Claim, *, before: int
) -> Standing:
    """Look at a conversation that is locked, and at the claim's budgets, by one statement; raises `BudgetExceeded`.

    The history is of turns with ids below `before`.
    """
    at, budgets = now(), claim.budgets
    edge = edge_of(user_id, conversation_id)
    shown = select_shown(user_id, conversation_id, turns=claim.history, before=before, edge=edge)
    turn = select_under_way(user_id, conversation_id).subquery("turn")
    stands = select(queue.in_queue(user_id, conversation_id).label("is_followed")).subquery("stands")
    columns, joined = [*turn.c, stands.c.is_followed], stands.outerjoin(turn, true())
    if budgets:
        used = budgets.used(user_id, budgets.values(at)).subquery("used")
        columns, joined = [*columns, *used.c], joined.join(used, true())
    statement = select(*columns, *shown.c).select_from(joined.outerjoin(shown, true())).order_by(shown.c.id)
    with measuring("history"):
        rows = (await session.execute(statement, {"user_id": user_id})).all()
    is_followed, *used_so_far = rows[0][len(turn.c) : len(columns)]
    if budgets:
        budgets.require(used_so_far, at)
    messages = [row[len(columns) + 1 :] for row in rows if row[len(columns)] is not None]
    return Standing(to_under_way(rows[0][: len(turn.c)]), is_followed, to_history(messages, claim.history))


async def make_way(
    session: AsyncSession,
    standing: Standing,
    user_id: str,
    conversation_id: int,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
) -> list[Ended] | Queued:
    """Make way for a turn in a conversation that is locked and stands so; returns its place in the queue if it cannot begin yet.

    Else returns the waits that have ended by this. A turn whose process has died is ended. Raises `TurnInProgress` and
    `QueueFull`; for keys `KeyInProgress`, `KeyReused` and `TurnCancelled`.
    """
    # A request with the same key may have come between.
    if key is not None and request.when_busy and await turn_of_key(session, user_id, key) is not None:
        raise await who_was_first(session, user_id, conversation_id, key)
    turn = standing.turn
    if request.when_busy == "interrupt":
        await queue.take_out(session, user_id, conversation_id)
        if turn is not None and turn.is_alive and not turn.waits:
            await ask_to_end(session, user_id, turn.turn_id)
            return await in_queue(session, user_id, conversation_id, request, key, claim)
        return await end_at_once(session, user_id, conversation_id, turn, is_interrupted=True)
    queues = request.when_busy == "queue"
    is_busy = turn is not None and turn.is_alive and (queues or not turn.waits)
    if is_busy or standing.is_followed:
        if queues:
            return await in_queue(session, user_id, conversation_id, request, key, claim)
        raise await who_was_first(session, user_id, conversation_id, key)
    return await end_at_once(session, user_id, conversation_id, turn, is_interrupted=False)


async def under_way(session: AsyncSession, user_id: str, conversation_id: int) -> UnderWay | None:
    found = await session.execute(select_under_way(user_id, conversation_id))
    row = found.one_or_none()
    return None if row is None else to_under_way(row)


def select_under_way(user_id: str, conversation_id: int) -> Select[int, str, bool, bool]:
    return select(Turn.id, Turn.worker_id, Turn.cancel_requested, turn_is_alive.label("is_alive")).where(
        Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == RUNNING
    )


def to_under_way(row: Sequence[Any]) -> UnderWay | None:
    """The turn of such a row; None if its columns are empty."""
    turn_id, worker_id, is_asked_to_end, is_alive = row
    return None if turn_id is None else UnderWay(turn_id, worker_id == WAITING, is_asked_to_end, is_alive)


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
    if is_interrupted or turn.is_asked_to_end:
        await cancel_abandoned(session, user_id, conversation_id, turn.turn_id)
    else:
        await fail_abandoned(session, Turn.id == turn.turn_id, Turn.user_id == user_id, ~turn_is_alive)
    return []
