"""What is stored of turns that wait for answers.

A waiting turn holds its conversation's one active turn, and nothing else: it is running for `workers.id = 'waiting'`,
whose lease has no end (`db.models.WAITING`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolCall
from chatapi.db.models import RUNNING, WAITING, Turn, Wait, now
from chatapi.db.paging import MAX_ID
from chatapi.parts import bounded
from chatapi.turns.log import ToolEnded, ToolStarted, TurnEvent
from chatapi.turns.schemas import Answer, ClientTool, Pending, PendingUntil, WaitingAnswer, WaitingTurn
from chatapi.turns.store.journal import read_journal
from chatapi.turns.store.rows import Said, Waited
from chatapi.usage.schemas import TurnUsage


async def told(session: AsyncSession, row: Wait) -> WaitingAnswer:
    """What a wait's reader is told at its beginning, and while it goes on."""
    calls = await read_journal(session, row.user_id, row.turn_id)
    said = Said(
        events=shown_events(row),
        tool_calls=[*(bounded(call) for call in calls), *given_calls(row)],
        usage=msgspec.convert(row.usage, TurnUsage | None),
    )
    return answer_of_wait(row.conversation_id, row.turn_id, said, pending_of(row))


def answer_of_wait(
    conversation_id: int, turn_id: int, said: Said, pending: list[PendingUntil]
) -> WaitingAnswer:
    ended = {event.call.id for event in said.events if isinstance(event, ToolEnded)}
    return WaitingAnswer(
        conversation_id=conversation_id,
        turn_id=turn_id,
        response=said.response,
        tool_calls=[call for call in said.tool_calls if call.id in ended],
        pending=pending,
        usage=UNSET if said.usage is None else said.usage,
    )


def pending_of(row: Wait) -> list[PendingUntil]:
    """The calls that are still to be answered."""
    return [
        msgspec.convert({**call, "expires_at": row.expires_at}, PendingUntil)
        for call in row.calls
        if call["id"] not in row.answers
    ]


def events_of(row: Wait) -> list[TurnEvent]:
    return msgspec.convert(row.events, list[TurnEvent])


def shown_events(row: Wait) -> list[TurnEvent]:
    """The events with the answers that are there: all that a reader of the wait can be told."""
    return [*to_waited(row).events, *(ToolEnded(call) for call in given_calls(row))]


def given_calls(row: Wait) -> list[ToolCall]:
    """The client tools' calls that have an answer."""
    answers = msgspec.convert(row.answers, dict[str, Answer])
    return [
        ToolCall(
            id=call.tool_call_id,
            name=call.name,
            arguments=call.arguments,
            result=answers[call.id].output,
            error=answers[call.id].error,
        )
        for call in msgspec.convert(row.calls, list[Pending])
        if call.kind == "client-tool" and call.id in answers
    ]


async def open_wait(session: AsyncSession, user_id: str, turn_id: int) -> Wait | None:
    """The wait that the turn is in."""
    found: Wait | None = await session.scalar(
        select(Wait).where(Wait.turn_id == turn_id, Wait.user_id == user_id, Wait.ended_at.is_(None))
    )
    return found


async def answered(session: AsyncSession, user_id: str, turn_id: int) -> Waited | None:
    """The last wait of the turn that was answered, from which a run goes on; None if there was none."""
    row = await session.scalar(
        select(Wait)
        .where(Wait.turn_id == turn_id, Wait.user_id == user_id, Wait.ended_by == "answered")
        .order_by(Wait.number.desc())
        .limit(1)
    )
    return None if row is None else to_waited(row)


def to_waited(row: Wait) -> Waited:
    answers = msgspec.convert(row.answers, dict[str, Answer])
    calls = msgspec.convert(row.calls, list[Pending])
    return Waited(
        number=row.number,
        calls=calls,
        answers=answers,
        events=[with_answer(event, answers) for event in events_of(row)],
        state=row.state,
        client_tools=msgspec.convert(row.client_tools, list[ClientTool]),
        usage=msgspec.convert(row.usage, TurnUsage | None),
    )


def with_answer(event: TurnEvent, answers: Mapping[str, Answer]) -> TurnEvent:
    if not isinstance(event, ToolStarted) or event.approval is None:
        return event
    answer = answers.get(event.approval.id)
    if answer is None:
        return event
    approval = replace(event.approval, approved=answer.approved, reason=answer.reason or UNSET)
    return replace(event, approval=approval)


class Due(NamedTuple):
    """A turn whose wait is to be ended: its time is over, or a replica of the version before was told to cancel it."""

    by: Literal["expired", "cancelled"]
    user_id: str
    conversation_id: int
    turn_id: int


class Look(NamedTuple):
    """How many turns wait, those of them whose wait is to be ended, and when the next one's time will be over."""

    waiting: int
    due: Sequence[Due]
    next_at: datetime | None


async def look(session: AsyncSession, limit: int) -> Look:
    """Look at everybody's open waits; finds `limit` of each kind that are to be ended at the most."""
    open_ = Wait.ended_at.is_(None)
    at = now()  # for both: a wait that is over between two moments would be neither due nor next
    over = await session.execute(
        select(Wait.user_id, Wait.conversation_id, Wait.turn_id)
        .where(open_, Wait.expires_at <= at)
        .order_by(Wait.expires_at)
        .limit(limit)
    )
    cancelled = await session.execute(
        select(Turn.user_id, Turn.conversation_id, Turn.id)
        .where(Turn.status == RUNNING, Turn.worker_id == WAITING, Turn.cancel_requested)
        .limit(limit)
    )
    due = [*(Due("cancelled", *row) for row in cancelled), *(Due("expired", *row) for row in over)]
    waiting = await session.scalar(select(func.count()).select_from(Wait).where(open_)) or 0
    next_at = await session.scalar(select(func.min(Wait.expires_at)).where(open_, Wait.expires_at > at))
    return Look(waiting, due, next_at)


async def page(session: AsyncSession, user_id: str, limit: int, before: int | None) -> Sequence[WaitingTurn]:
    """The user's turns that wait, newest first."""
    statement = (
        select(Wait)
        .where(Wait.user_id == user_id, Wait.ended_at.is_(None), Wait.turn_id < (before or MAX_ID))
        .order_by(Wait.turn_id.desc())
        .limit(limit)
    )
    return [
        WaitingTurn(
            conversation_id=row.conversation_id,
            turn_id=row.turn_id,
            pending=pending_of(row),
            created_at=row.began_at,
        )
        for row in await session.scalars(statement)
    ]
