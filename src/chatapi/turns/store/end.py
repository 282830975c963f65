"""How a turn ends: answered, cancelled, failed, or left behind by a process that died.

Locks are taken in one order, conversation before turn, so that no two transactions wait for each other.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.deletion import forget_messages
from chatapi.conversations.search.index import index_message
from chatapi.db.models import RUNNING, WAITING, Conversation, Message, Turn, now
from chatapi.db.paging import MAX_ID
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.turns import NotQueued, TurnCancelled, TurnEnded, TurnNotFound, WaitExpired
from chatapi.parts import bounded
from chatapi.turns.log import ReasoningAdded, ToolEnded, ToolStarted, TurnEvent, text_of
from chatapi.turns.replay import denied
from chatapi.turns.schemas import ChatAnswer
from chatapi.turns.store import live, queue, waits
from chatapi.turns.store.alive import is_abandoned
from chatapi.turns.store.journal import read_journal
from chatapi.turns.store.rows import (
    ABANDONED,
    ASSISTANT,
    Ended,
    Finished,
    Run,
    Said,
    answer_of,
    ended_turn,
    is_ours,
    new_message,
    outline_of,
    to_answer,
    typed_text,
)
from chatapi.usage.schemas import TurnUsage


async def finish(session: AsyncSession, run: Run, said: Said) -> Finished:
    """Store the answer and end the turn; raises `TurnCancelled` when it is no longer ours."""
    is_followed = await end(session, run, "completed", said)
    store = store_answer if run.wait is None else replace_answer
    message_id = await store(session, run.user_id, run.conversation_id, run.turn_id, said)
    return Finished(to_answer(run, message_id, said), is_followed)


async def finish_cancelled(session: AsyncSession, run: Run, said: Said) -> bool:
    """End the turn as cancelled, and keep what it had said and done; returns and raises as `end` does."""
    is_followed = await end(session, run, "cancelled", said)
    await keep_of(session, run, said.events, "cancelled")
    return is_followed


async def fail(session: AsyncSession, run: Run, said: Said, error: dict[str, Any]) -> bool:
    """End the turn as failed; returns and raises as `end` does.

    The user's message and what the turn had said and done stay and are shown, but no model ever sees them.
    """
    is_followed = await end(session, run, "failed", said, error)
    await keep_of(session, run, said.events, "failed")
    return is_followed


async def finished(session: AsyncSession, run: Run) -> Finished | None:
    """What `finish` returned for this run, if its COMMIT went through."""
    turn = await session.scalar(
        select(Turn).where(
            Turn.id == run.turn_id,
            Turn.user_id == run.user_id,
            Turn.run_id == run.run_id,
            Turn.status == "completed",
        )
    )
    stored = None if turn is None else await answer_of(session, turn)
    if stored is None or not isinstance(stored.answer, ChatAnswer):
        return None
    return Finished(stored.answer, await queue.is_followed(session, run.user_id, run.conversation_id))


async def has_counted(session: AsyncSession, run: Run, usage: TurnUsage | None) -> bool:
    """Whether the end of this run is stored, and so what it used."""
    stored = await session.scalar(
        select(Turn.usage).where(
            Turn.id == run.turn_id, Turn.user_id == run.user_id, Turn.run_id == run.run_id
        )
    )
    return usage is not None and stored == msgspec.to_builtins(usage)


async def fail_runs(session: AsyncSession, run_ids: Sequence[str]) -> set[str]:
    """End the turns of these runs as abandoned; returns the runs that had one. A turn that waits needs no run."""
    return await fail_abandoned(session, Turn.run_id.in_(run_ids), Turn.worker_id != WAITING)


async def request_cancel(session: AsyncSession, user_id: str, turn_id: int) -> Ended | None:
    """Ask the process that runs the turn to end it; if that is dead, end it here and keep what it wrote down.

    A turn that waits ends here, too, and its wait is returned.

    A turn that is queued is taken out. Raises `TurnNotFound` and `TurnEnded`.
    """
    if await unqueue(session, user_id, turn_id):
        return None
    turn = await find_turn(session, user_id, turn_id)
    await touch_conversation(session, user_id, turn.conversation_id)
    if (ended := await end_wait(session, user_id, turn_id, "cancelled")) is not None:
        return ended
    asked = await session.scalar(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id, Turn.status == RUNNING)
        .values(cancel_requested=True)
        .returning(Turn.id)
    )
    if asked is None:
        raise TurnEnded().with_turn(turn_id, turn.conversation_id)
    await cancel_abandoned(session, user_id, turn.conversation_id, turn_id)
    return None


async def cancel_abandoned(session: AsyncSession, user_id: str, conversation_id: int, turn_id: int) -> None:
    """End the turn as cancelled if its process has died, and keep what it wrote down."""
    abandoned = await session.scalar(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id, is_abandoned)
        .values(status="cancelled", finished_at=now())
        .returning(Turn.run_id)
    )
    if abandoned is not None:
        await keep_written(session, user_id, conversation_id, turn_id, abandoned)


async def take_out(session: AsyncSession, user_id: str, turn_id: int) -> None:
    """Take a turn out of its queue; raises `TurnNotFound`, and `NotQueued` when it has begun."""
    if not await unqueue(session, user_id, turn_id):
        turn = await find_turn(session, user_id, turn_id)
        raise NotQueued().with_turn(turn_id, turn.conversation_id)


async def unqueue(session: AsyncSession, user_id: str, turn_id: int) -> bool:
    """Take the turn out of its queue, if it is queued."""
    place = await queue.find(session, user_id, turn_id)
    if place is None:
        return False
    await touch_conversation(session, user_id, place.conversation_id)
    if await queue.find(session, user_id, turn_id) is None:  # it has begun before the conversation was locked
        return False
    await queue.take_out(session, user_id, place.conversation_id, turn_id)
    return True


async def find_turn(session: AsyncSession, user_id: str, turn_id: int) -> Turn:
    """The turn with this id; raises `TurnNotFound`."""
    turn = None
    if turn_id <= MAX_ID:
        turn = await session.scalar(select(Turn).where(Turn.id == turn_id, Turn.user_id == user_id))
    if turn is None:
        raise TurnNotFound(turn_id)
    return turn


async def touch_conversation(
    session: AsyncSession, user_id: str, conversation_id: int, **columns: Any
) -> None:
    """Move `updated_at`, and set these columns; the row's lock also makes turns of one conversation begin one by one."""
    if conversation_id > MAX_ID:  # no such id exists, and the database would refuse it
        raise ConversationNotFound(conversation_id)
    touched = await session.scalar(
        update(Conversation)
        .where(Conversation.id == conversation_id, Conversation.user_id == user_id)
        .values(updated_at=now(), **columns)
        .returning(Conversation.id)
    )
    if touched is None:
        raise ConversationNotFound(conversation_id)


async def touch_conversation_of(session: AsyncSession, run: Run) -> None:
    """As `touch_conversation`, with the run's window; raises `TurnCancelled` when it was deleted, and the turn with it."""
    try:
        await touch_conversation(session, run.user_id, run.conversation_id, **run.window.columns)
    except ConversationNotFound:
        raise TurnCancelled from None


async def fail_abandoned(session: AsyncSession, *which: ColumnElement[bool]) -> set[str]:
    """End these running turns as failed and keep what they wrote down; returns their runs."""
    failed = await session.execute(
        update(Turn)
        .where(Turn.status == RUNNING, *which)
        .values(status="failed", error=ABANDONED, finished_at=now())
        .returning(Turn.user_id, Turn.conversation_id, Turn.id, Turn.run_id)
    )
    ended = failed.all()
    for user_id, conversation_id, turn_id, run_id in ended:
        await keep_written(session, user_id, conversation_id, turn_id, run_id)
    return {run_id for *_, run_id in ended}


async def end(
    session: AsyncSession, run: Run, status: str, said: Said, error: dict[str, Any] | None = None
) -> bool:
    """Write the end into the turn's row; returns whether another turn is queued behind it.

    Raises `TurnCancelled` when the turn is no longer ours. An answer that broke off stores no finish reason and no model.
    """
    await touch_conversation_of(session, run)
    is_whole = status == "completed"
    columns = ended_turn(
        status=status,
        usage=None if said.usage is None else msgspec.to_builtins(said.usage),
        finish_reason=said.finish_reason if is_whole else None,
        model=typed_text(said.state.model if is_whole and said.state is not None else None),
        error=error,
        at=now(),
    )
    ours = is_ours(run.turn_id, run.user_id, run.run_id)
    # The conversation is locked, so nothing is queued before the transaction ends.
    is_followed = queue.in_queue(run.user_id, run.conversation_id).label("is_followed")
    ended = await session.execute(update(Turn).where(ours).values(columns).returning(Turn.id, is_followed))
    if (row := ended.one_or_none()) is None:
        raise TurnCancelled
    return bool(row.is_followed)


async def keep_of(session: AsyncSession, run: Run, events: Sequence[TurnEvent], status: str) -> None:
    """As `keep`, for a turn that this run has ended."""
    await keep(
        session,
        run.user_id,
        run.conversation_id,
        run.turn_id,
        denied(events, status, wait=0 if run.wait is None else run.wait.number),
        replaces=run.wait is not None,
    )


async def keep(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    turn_id: int,
    events: Sequence[TurnEvent],
    *,
    replaces: bool,
) -> None:
    """Store what a turn that ended without an answer had said and done, if anything.

    The calls come from the journal, because the turn may have ended during the COMMIT of a call; only those that were
    never made come from the events. No provider's state is stored: a provider cannot go on from an answer that broke
    off. `replaces`: the turn has waited, and so has a message already.
    """
    calls = [bounded(call) for call in await read_journal(session, user_id, turn_id)]
    made = {call.id for call in calls}
    calls += [event.call for event in events if isinstance(event, ToolEnded) and event.call.id not in made]
    acted = any(isinstance(event, ReasoningAdded | ToolStarted) for event in events)
    if calls or acted or text_of(events).strip():
        store = replace_answer if replaces else store_answer
        await store(session, user_id, conversation_id, turn_id, Said(events=events, tool_calls=calls))


async def keep_written(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int, run_id: str
) -> None:
    """As `keep`, for a run whose process is dead: only what it wrote down is left."""
    before = await waits.answered(session, user_id, turn_id)
    run = live.Place(
        user_id=user_id, turn_id=turn_id, conversation_id=conversation_id, run_id=run_id, position=0
    )
    events = [*(() if before is None else before.events), *await live.said(session, run)]
    await keep(
        session,
        user_id,
        conversation_id,
        turn_id,
        denied(events, "failed", wait=0 if before is None else before.number),
        replaces=before is not None,
    )
    await live.drop(session, user_id, turn_id)


async def end_wait(
    session: AsyncSession, user_id: str, turn_id: int, by: Literal["superseded", "expired", "cancelled"]
) -> Ended | None:
    """End the turn in the middle of its wait, with its conversation locked; None if it does not wait.

    What it had said and done is kept, and its calls are denied.
    """
    row = await waits.open_wait(session, user_id, turn_id)
    if row is None:
        return None
    ended_at = now()
    ended = await session.scalar(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id, Turn.status == RUNNING, Turn.worker_id == WAITING)
        .values(
            status={"superseded": "completed", "expired": "failed", "cancelled": "cancelled"}[by],
            error=WaitExpired().stored if by == "expired" else None,
            finished_at=ended_at,
        )
        .returning(Turn.id)
    )
    row.ended_at, row.ended_by = ended_at, by
    await session.flush()
    if ended is None:
        return None
    events = denied(waits.to_waited(row).events, by, wait=row.number)
    await keep(session, user_id, row.conversation_id, turn_id, events, replaces=True)
    return Ended(by=by, seconds=(ended_at - row.began_at).total_seconds())


async def store_answer(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int, said: Said
) -> int:
    response = said.response
    columns = new_message(
        ASSISTANT,
        user_id=user_id,
        conversation_id=conversation_id,
        turn_id=turn_id,
        content=response,
        tool_calls=msgspec.to_builtins(said.tool_calls),
        parts=msgspec.to_builtins(outline_of(said, response)),
        provider_state=None if said.state is None else said.state.data,
        at=now(),
    )
    stored = await session.execute(insert(Message).values(columns).returning(Message.id))
    message_id = stored.scalar_one()
    await index_message(session, user_id, conversation_id, message_id, said.response)
    return message_id


async def replace_answer(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int, said: Said
) -> int:
    """As `store_answer`, in the place of what was stored when the turn began to wait."""
    gone = await session.scalars(
        delete(Message)
        .where(Message.turn_id == turn_id, Message.user_id == user_id, Message.role == "assistant")
        .returning(Message.id)
    )
    await forget_messages(session, user_id, conversation_id, gone.all())
    return await store_answer(session, user_id, conversation_id, turn_id, said)
