"""The statements of a turn: each function here is what one short transaction does.

They are Core statements rather than flushes of objects, because a turn's cost is its round trips.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import and_, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import HistoryMessage, ProviderState, ToolCall, Usage
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.db.clock import utc_now
from chatapi.db.models import Conversation, Message, ToolCallEntry, Turn, Worker, now
from chatapi.db.paging import MAX_ID
from chatapi.db.services import insert_unless_there, remember_user
from chatapi.errors import ConversationNotFound, TurnInProgress, TurnLost

ABANDONED = {"type": "interrupted", "detail": "The process that ran this turn ended."}


class Run(Struct, frozen=True, kw_only=True):
    """One run of a turn, by one process."""

    turn_id: int
    run_id: str
    user_id: str
    conversation_id: int
    message: str
    history: Sequence[HistoryMessage]


async def begin(
    session: AsyncSession,
    user_id: str,
    request: ChatRequest,
    *,
    run_id: str,
    worker_id: str,
    model: str,
    history: int,
) -> Run:
    """Own the conversation or make it, claim its one active turn, store the user's message, read the history.

    `history` is in turns. Raises `ConversationNotFound` and `TurnInProgress`.
    """
    if request.conversation_id is None:
        conversation_id = await _new_conversation(session, user_id)
    else:
        conversation_id = request.conversation_id
        await _touch_conversation(session, user_id, conversation_id)
        await _fail_abandoned(session, user_id, conversation_id)

    turn_id = await session.scalar(
        insert_unless_there(
            session,
            Turn,
            user_id=user_id,
            conversation_id=conversation_id,
            status="running",
            worker_id=worker_id,
            run_id=run_id,
            model=model,
        ).returning(Turn.id)
    )
    if turn_id is None:
        raise await _in_progress(session, user_id, conversation_id)

    await session.execute(
        insert(Message).values(
            user_id=user_id,
            conversation_id=conversation_id,
            turn_id=turn_id,
            role="user",
            content=request.message,
        )
    )
    return Run(
        turn_id=turn_id,
        run_id=run_id,
        user_id=user_id,
        conversation_id=conversation_id,
        message=request.message,
        history=await read_history(session, user_id, conversation_id, turns=history),
    )


async def read_history(
    session: AsyncSession, user_id: str, conversation_id: int, *, turns: int
) -> list[HistoryMessage]:
    """The last completed turns, whole ones, oldest first. A failed turn is never among them."""
    latest = (
        select(Turn.id)
        .where(Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == "completed")
        .order_by(Turn.id.desc())
        .limit(turns)
    )
    rows = await session.execute(
        select(Message.role, Message.content, Message.tool_calls, Message.provider_state)
        .where(Message.user_id == user_id, Message.turn_id.in_(latest))
        .order_by(Message.id)
    )
    return [
        HistoryMessage(
            role=role,
            content=content,
            tool_calls=msgspec.convert(calls, list[ToolCall]),
            provider_state=state,
        )
        for role, content, calls, state in rows
    ]


async def hold(session: AsyncSession, run: Run) -> None:
    """Keep the turn ours until the transaction ends; raises `TurnLost` when it no longer is."""
    held = await session.scalar(select(Turn.id).where(_ours(run)).with_for_update(read=True))
    if held is None:
        raise TurnLost(run.turn_id)


async def record_call(session: AsyncSession, run: Run, position: int, call: ToolCall) -> None:
    """The journal entry of a call, in the transaction of its effect."""
    await session.execute(
        insert(ToolCallEntry).values(
            turn_id=run.turn_id,
            position=position,
            user_id=run.user_id,
            call_id=call.id,
            name=call.name,
            arguments=call.arguments,
            result=None if call.result is msgspec.UNSET else call.result,
            error=None if call.error is msgspec.UNSET else call.error,
        )
    )


async def finish(
    session: AsyncSession,
    run: Run,
    *,
    response: str,
    tool_calls: list[ToolCall],
    usage: Usage | None,
    state: ProviderState | None = None,
) -> ChatAnswer:
    """Store the answer and end the turn as completed; raises `TurnLost` when it is no longer ours."""
    answered_by = {} if state is None else {"model": state.model}
    await _end(
        session,
        run,
        status="completed",
        usage=None if usage is None else msgspec.to_builtins(usage),
        **answered_by,
    )
    message_id = await session.scalar(
        insert(Message)
        .values(
            user_id=run.user_id,
            conversation_id=run.conversation_id,
            turn_id=run.turn_id,
            role="assistant",
            content=response,
            tool_calls=msgspec.to_builtins(tool_calls),
            provider_state=None if state is None else state.data,
        )
        .returning(Message.id)
    )
    await _touch_conversation(session, run.user_id, run.conversation_id)
    return ChatAnswer(
        conversation_id=run.conversation_id,
        response=response,
        tool_calls=tool_calls,
        message_id=message_id or 0,
        turn_id=run.turn_id,
        usage=msgspec.UNSET if usage is None else usage,
    )


async def fail(session: AsyncSession, run: Run, error: dict[str, Any]) -> None:
    """End the turn as failed; its user's message stays and is shown, and no model ever sees it."""
    await _end(session, run, status="failed", error=error)
    await _touch_conversation(session, run.user_id, run.conversation_id)


async def _end(session: AsyncSession, run: Run, **values: Any) -> None:
    ended = await session.scalar(
        update(Turn).where(_ours(run)).values(finished_at=now(), **values).returning(Turn.id)
    )
    if ended is None:
        raise TurnLost(run.turn_id)


def _ours(run: Run) -> Any:
    return and_(
        Turn.id == run.turn_id,
        Turn.user_id == run.user_id,
        Turn.run_id == run.run_id,
        Turn.status == "running",
    )


async def _new_conversation(session: AsyncSession, user_id: str) -> int:
    await remember_user(session, user_id)
    return (
        await session.execute(insert(Conversation).values(user_id=user_id).returning(Conversation.id))
    ).scalar_one()


async def _touch_conversation(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """Move `updated_at`; the row's lock also makes turns that begin at once in one conversation do so in turn."""
    if conversation_id > MAX_ID:  # as text it names nothing, and as a number the database would refuse it
        raise ConversationNotFound(conversation_id)
    touched = await session.scalar(
        update(Conversation)
        .where(Conversation.id == conversation_id, Conversation.user_id == user_id)
        .values(updated_at=now())
        .returning(Conversation.id)
    )
    if touched is None:
        raise ConversationNotFound(conversation_id)


async def _fail_abandoned(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """A running turn whose process has died blocks nobody."""
    await session.execute(
        update(Turn)
        .where(
            Turn.user_id == user_id,
            Turn.conversation_id == conversation_id,
            Turn.status == "running",
            ~exists().where(Worker.id == Turn.worker_id, Worker.lease_until > utc_now()),
        )
        .values(status="failed", error=ABANDONED, finished_at=now())
    )


async def _in_progress(session: AsyncSession, user_id: str, conversation_id: int) -> TurnInProgress:
    running = await session.scalar(
        select(Turn.id).where(
            Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == "running"
        )
    )
    return TurnInProgress(
        "The conversation's turn before this one is not finished.",
        retry_after=1,
        turn_id=running,
        conversation_id=conversation_id,
    )
