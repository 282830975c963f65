"""The statements of a turn: each public function here is what one short transaction does.

They are Core statements rather than flushes of objects, because a turn's cost is its round trips. Locks are taken in
one order, conversation before turn before the rows of tools, so that no two transactions wait for each other.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Select, Text, and_, cast, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import HistoryMessage, ProviderState, ToolCall, Usage
from chatapi.chat import chunks
from chatapi.chat.measures import measured
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.db.alternatives import is_answered, superseded
from chatapi.db.clock import utc_now
from chatapi.db.models import RUNNING, Conversation, Message, ToolCallEntry, Turn, Worker, now
from chatapi.db.paging import MAX_ID
from chatapi.db.services import insert_unless_there, remember_user
from chatapi.errors import (
    ConversationNotFound,
    KeyInProgress,
    KeyReused,
    TurnCancelled,
    TurnEnded,
    TurnInProgress,
    TurnNotFound,
    TurnSuperseded,
)

KEY_RETENTION = timedelta(hours=24)  # a client that retries does so within minutes
NO_CALLS = "[]"  # as it is stored with most messages
ABANDONED = {"type": "interrupted", "detail": "The process that ran this turn ended.", "retry_after": 1}

decode_calls = msgspec.json.Decoder(list[ToolCall]).decode
turn_is_alive = exists().where(Worker.id == Turn.worker_id, Worker.lease_until > utc_now())


class Claim(Struct, frozen=True, kw_only=True):
    """What a process brings to a turn: `run_id` is new for each run, `history` is how many turns it looks back."""

    run_id: str
    worker_id: str
    model: str
    history: int


class Run(Struct, frozen=True, kw_only=True):
    """One run of a turn, by one process. `journal` is what earlier runs of it did."""

    turn_id: int
    run_id: str
    user_id: str
    conversation_id: int
    message: str
    history: Sequence[HistoryMessage]
    journal: Sequence[ToolCall] = ()


class Key(Struct, frozen=True, kw_only=True):
    """An idempotency key with the fingerprint of the request that came with it."""

    value: str
    request_hash: str


async def begin(
    session: AsyncSession, user_id: str, request: ChatRequest, key: Key | None, claim: Claim
) -> Run | ChatAnswer:
    """Own the conversation or make it, claim its one active turn, store the user's message, read the history.

    With a key that was seen before, its turn is run again if it failed or was abandoned, and if it was answered the
    answer is given. Raises `ConversationNotFound`, `TurnInProgress`, and for keys `KeyReused`, `KeyInProgress`,
    `TurnSuperseded` and `TurnCancelled`.
    """
    again = await begin_again(session, user_id, key, claim)
    return again or await begin_new(session, user_id, request, key, claim)


async def begin_again(
    session: AsyncSession, user_id: str, key: Key | None, claim: Claim
) -> Run | ChatAnswer | None:
    """As `begin`, for a key that was seen before; None for another."""
    if key is None or (turn := await _turn_of_key(session, user_id, key)) is None:
        return None
    return await _again(session, turn, key, claim)


async def begin_new(
    session: AsyncSession,
    user_id: str,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
    alternative_of: int | None = None,
) -> Run:
    """As `begin`, for a key that was not seen before."""
    if request.conversation_id is None:
        conversation_id = await _new_conversation(session, user_id)
    else:
        conversation_id = request.conversation_id
        await touch_conversation(session, user_id, conversation_id)
        await _fail_abandoned(session, user_id, conversation_id)

    turn_id = await session.scalar(
        insert_unless_there(
            session,
            Turn,
            user_id=user_id,
            conversation_id=conversation_id,
            status="running",
            worker_id=claim.worker_id,
            run_id=claim.run_id,
            idempotency_key=key and key.value,
            request_hash=key and key.request_hash,
            model=claim.model,
            alternative_of=alternative_of,
        ).returning(Turn.id)
    )
    if turn_id is None:
        raise await _who_was_first(session, user_id, conversation_id, key)
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
        run_id=claim.run_id,
        user_id=user_id,
        conversation_id=conversation_id,
        message=request.message,
        history=await read_history(
            session, user_id, conversation_id, turns=claim.history, before=alternative_of or turn_id
        ),
    )


async def seen(session: AsyncSession, user_id: str, key: Key) -> ChatAnswer | None:
    """The answer that a request with this key has had, or None if its turn is to be begun or run again.

    Raises `KeyReused`, `TurnCancelled` and `KeyInProgress`.
    """
    turn = await _turn_of_key(session, user_id, key)
    if turn is None:
        return None
    answer = await _settled(session, turn, key)
    alive = select(Turn.id).where(Turn.id == turn.id, Turn.user_id == user_id, turn_is_alive)
    if turn.status == "running" and await session.scalar(alive) is not None:
        raise _key_in_progress(turn)
    return answer


async def begun(session: AsyncSession, user_id: str, claim: Claim) -> Run | None:
    """The run that `begin` made of this claim, if its COMMIT went through."""
    turn = await session.scalar(select(Turn).where(Turn.run_id == claim.run_id, Turn.user_id == user_id))
    return None if turn is None else await _run_of(session, turn, claim)


@measured("history")
async def read_history(
    session: AsyncSession, user_id: str, conversation_id: int, *, turns: int, before: int = MAX_ID
) -> list[HistoryMessage]:
    """The last turns that the model may see, whole ones, oldest first.

    That is those which were answered, and of the cancelled ones those that had said or done something; of those that
    answer the same anew, the last. A failed turn is never among them, and neither is half a one, so what an agent is
    given always alternates.
    """
    history = select_history(user_id, conversation_id, turns=turns, before=before)
    rows = await session.execute(history.order_by(Message.id))
    return to_history(row[1:] for row in rows)


def select_history(
    user_id: str | ColumnElement[str],
    conversation_id: int | ColumnElement[int],
    *,
    turns: int,
    before: int,
) -> Select[tuple[int, str, str, str, Any]]:
    """In no order. The messages are found by their turns alone: the owner comes from there, too.

    Named here again, it would be an offer to read all messages of a user whom the planner takes for new.
    """
    latest = (
        select(Turn.id, Turn.user_id)
        .where(
            Turn.user_id == user_id,
            Turn.conversation_id == conversation_id,
            Turn.id < before,
            is_answered(Turn),
            ~superseded(is_answered),
        )
        .order_by(Turn.id.desc())
        .limit(turns)
        .subquery("latest")
    )
    return select(
        Message.id,
        Message.role,
        Message.content,
        cast(Message.tool_calls, Text).label("tool_calls"),
        Message.provider_state,
    ).join(latest, and_(Message.turn_id == latest.c.id, Message.user_id == latest.c.user_id))


def to_history(rows: Iterable[Sequence[Any]]) -> list[HistoryMessage]:
    """Messages of the rows of `select_history`, in their order and without their ids."""
    return [
        HistoryMessage(
            role=role,
            content=content,
            tool_calls=[] if calls == NO_CALLS else decode_calls(calls),
            provider_state=state,
        )
        for role, content, calls, state in rows
    ]


async def hold(session: AsyncSession, run: Run) -> None:
    """Keep the turn ours until the transaction ends; raises `TurnCancelled` when it no longer is."""
    held = await session.scalar(select(Turn.id).where(_ours(run)).with_for_update(read=True))
    if held is None:
        raise TurnCancelled(run.turn_id, run.conversation_id)


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


async def read_journal(session: AsyncSession, user_id: str, turn_id: int) -> list[ToolCall]:
    """The turn's calls with their outcomes, in the order in which they were made."""
    entries = await session.scalars(
        select(ToolCallEntry)
        .where(ToolCallEntry.turn_id == turn_id, ToolCallEntry.user_id == user_id)
        .order_by(ToolCallEntry.position)
    )
    return [
        ToolCall(id=entry.call_id, name=entry.name, arguments=entry.arguments, result=entry.result)
        if entry.error is None
        else ToolCall(id=entry.call_id, name=entry.name, arguments=entry.arguments, error=entry.error)
        for entry in entries
    ]


async def finish(
    session: AsyncSession,
    run: Run,
    *,
    response: str,
    tool_calls: Sequence[ToolCall],
    usage: Usage | None,
    state: ProviderState | None = None,
) -> ChatAnswer:
    """Store the answer and end the turn; raises `TurnCancelled` when it is no longer ours."""
    await _end(
        session,
        run,
        status="completed",
        usage=None if usage is None else msgspec.to_builtins(usage),
        **({} if state is None else {"model": state.model}),
    )
    message_id = await _store_answer(
        session,
        response,
        tool_calls,
        user_id=run.user_id,
        conversation_id=run.conversation_id,
        turn_id=run.turn_id,
        provider_state=None if state is None else state.data,
    )
    return to_answer(run, message_id, response, tool_calls, usage)


async def finish_cancelled(session: AsyncSession, run: Run, *, response: str, usage: Usage | None) -> None:
    """End the turn as cancelled, and keep what it had said and done; raises `TurnCancelled` as `finish` does."""
    await _end(session, run, status="cancelled", usage=None if usage is None else msgspec.to_builtins(usage))
    await _keep(session, run.user_id, run.conversation_id, run.turn_id, response)


def to_answer(
    run: Run, message_id: int, response: str, tool_calls: Sequence[ToolCall], usage: Usage | None
) -> ChatAnswer:
    """The answer that was stored just now as this message."""
    return ChatAnswer(
        conversation_id=run.conversation_id,
        response=response,
        tool_calls=list(tool_calls),
        message_id=message_id,
        turn_id=run.turn_id,
        usage=msgspec.UNSET if usage is None else usage,
    )


async def finished(session: AsyncSession, run: Run) -> ChatAnswer | None:
    """The answer that `finish` stored for this run, if its COMMIT went through."""
    turn = await session.scalar(
        select(Turn).where(Turn.id == run.turn_id, Turn.run_id == run.run_id, Turn.status == "completed")
    )
    return None if turn is None else await answer_of(session, turn)


async def fail(session: AsyncSession, run: Run, error: dict[str, Any]) -> None:
    """End the turn as failed; its user's message stays and is shown, and no model ever sees it."""
    await _end(session, run, status="failed", error=error)


async def fail_runs(session: AsyncSession, run_ids: Sequence[str]) -> set[str]:
    """End the turns that are these runs' as abandoned; gives the runs that had one."""
    failed = await session.execute(
        update(Turn)
        .where(Turn.run_id.in_(run_ids), Turn.status == RUNNING)
        .values(status="failed", error=ABANDONED, finished_at=now())
        .returning(Turn.run_id, Turn.user_id, Turn.id)
    )
    ended = failed.all()
    for _, user_id, turn_id in ended:
        await chunks.drop(session, user_id, turn_id)
    return {run_id for run_id, _, _ in ended}


async def request_cancel(session: AsyncSession, user_id: str, turn_id: int) -> None:
    """Ask the process that runs the turn to end it; where that process is dead, end it here, and keep what it wrote down.

    Raises `TurnNotFound` and `TurnEnded`.
    """
    turn = await session.scalar(select(Turn).where(Turn.id == turn_id, Turn.user_id == user_id))
    if turn is None:
        raise TurnNotFound(turn_id)
    await touch_conversation(session, user_id, turn.conversation_id)
    asked = await session.scalar(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id, Turn.status == RUNNING)
        .values(cancel_requested=True)
        .returning(Turn.id)
    )
    if asked is None:
        raise TurnEnded(
            "The turn has ended; there is nothing left to cancel.",
            turn_id=turn_id,
            conversation_id=turn.conversation_id,
        )
    abandoned = await session.scalar(
        update(Turn)
        .where(Turn.id == turn_id, Turn.user_id == user_id, Turn.status == RUNNING, ~turn_is_alive)
        .values(status="cancelled", finished_at=now())
        .returning(Turn.run_id)
    )
    if abandoned is not None:
        run = chunks.Place(
            turn_id=turn_id, conversation_id=turn.conversation_id, run_id=abandoned, position=0
        )
        await _keep(session, user_id, turn.conversation_id, turn_id, await chunks.said(session, run))
        await chunks.drop(session, user_id, turn_id)


async def runs_to_stop(session: AsyncSession, run_ids: Sequence[str]) -> set[str]:
    """Those of the runs that were asked to end, or whose turn is no longer theirs."""
    going_on = await session.scalars(
        select(Turn.run_id).where(
            Turn.run_id.in_(run_ids), Turn.status == RUNNING, Turn.cancel_requested.is_(False)
        )
    )
    return set(run_ids) - set(going_on)


async def own_conversation(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """Raises `ConversationNotFound` when it is not theirs."""
    mine = select(Conversation.id).where(Conversation.id == conversation_id, Conversation.user_id == user_id)
    if conversation_id > MAX_ID or await session.scalar(mine) is None:
        raise ConversationNotFound(conversation_id)


async def touch_conversation(session: AsyncSession, user_id: str, conversation_id: int) -> None:
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


async def _again(session: AsyncSession, turn: Turn, key: Key, claim: Claim) -> Run | ChatAnswer:
    """A request whose key was seen before."""
    if (answer := await _settled(session, turn, key)) is not None:
        return answer
    await touch_conversation(session, turn.user_id, turn.conversation_id)
    gone_on = exists().where(Turn.conversation_id == turn.conversation_id, Turn.id > turn.id)
    if await session.scalar(select(gone_on.where(Turn.user_id == turn.user_id))):
        raise TurnSuperseded(
            "The turn of this key failed and the conversation has gone on since; send the message anew.",
            turn_id=turn.id,
            conversation_id=turn.conversation_id,
        )
    taken = await session.scalar(
        update(Turn)
        .where(
            Turn.id == turn.id,
            Turn.user_id == turn.user_id,
            or_(Turn.status == "failed", and_(Turn.status == RUNNING, ~turn_is_alive)),
        )
        .values(
            status="running",
            worker_id=claim.worker_id,
            run_id=claim.run_id,
            cancel_requested=False,
            model=claim.model,
            error=None,
            finished_at=None,
        )
        .returning(Turn.id)
    )
    if taken is None:
        raise _key_in_progress(turn)
    await chunks.drop(session, turn.user_id, turn.id)
    return await _run_of(session, turn, claim)


async def _settled(session: AsyncSession, turn: Turn, key: Key) -> ChatAnswer | None:
    """What the turn of a key came to, if it came to anything that a retry cannot change."""
    if turn.request_hash != key.request_hash:
        raise _key_reused()
    if turn.status == "completed":
        return await answer_of(session, turn)
    if turn.status == "cancelled":
        raise TurnCancelled(turn.id, turn.conversation_id)
    return None


async def _run_of(session: AsyncSession, turn: Turn, claim: Claim) -> Run:
    return Run(
        turn_id=turn.id,
        run_id=claim.run_id,
        user_id=turn.user_id,
        conversation_id=turn.conversation_id,
        message=await message_of(session, turn),
        history=await read_history(
            session,
            turn.user_id,
            turn.conversation_id,
            turns=claim.history,
            before=turn.alternative_of or turn.id,
        ),
        journal=await read_journal(session, turn.user_id, turn.id),
    )


async def message_of(session: AsyncSession, turn: Turn) -> str:
    """What the turn answers."""
    return (
        await session.execute(
            select(Message.content).where(
                Message.turn_id == turn.id, Message.user_id == turn.user_id, Message.role == "user"
            )
        )
    ).scalar_one()


async def answer_of(session: AsyncSession, turn: Turn) -> ChatAnswer | None:
    """What is stored of its answer; None when a cancelled turn had said and done nothing."""
    message = await session.scalar(
        select(Message).where(
            Message.turn_id == turn.id, Message.user_id == turn.user_id, Message.role == "assistant"
        )
    )
    if message is None:
        return None
    return ChatAnswer(
        conversation_id=turn.conversation_id,
        response=message.content,
        tool_calls=msgspec.convert(message.tool_calls, list[ToolCall]),
        message_id=message.id,
        turn_id=turn.id,
        usage=msgspec.UNSET if turn.usage is None else msgspec.convert(turn.usage, Usage),
    )


async def _turn_of_key(session: AsyncSession, user_id: str, key: Key) -> Turn | None:
    """The turn that the key stands for; a key past its retention is let go of."""
    turn = await session.scalar(
        select(Turn).where(Turn.user_id == user_id, Turn.idempotency_key == key.value)
    )
    if turn is None or turn.created_at > now() - KEY_RETENTION:
        return turn
    await session.execute(
        update(Turn).where(Turn.id == turn.id, Turn.user_id == user_id).values(idempotency_key=None)
    )
    return None


async def _who_was_first(
    session: AsyncSession, user_id: str, conversation_id: int, key: Key | None
) -> KeyInProgress | KeyReused | TurnInProgress:
    """Why a turn could not be claimed: a request with the same key came between, or the conversation has one."""
    if key is not None and (turn := await _turn_of_key(session, user_id, key)) is not None:
        return _key_in_progress(turn) if turn.request_hash == key.request_hash else _key_reused()
    running = await session.scalar(
        select(Turn.id).where(
            Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == RUNNING
        )
    )
    return TurnInProgress(
        "The conversation's turn before this one is not finished.",
        retry_after=1,
        turn_id=running,
        conversation_id=conversation_id,
    )


def _key_reused() -> KeyReused:
    return KeyReused("This Idempotency-Key was sent with another message or conversation; use a new one.")


def _key_in_progress(turn: Turn) -> KeyInProgress:
    return KeyInProgress(
        "The first request with this Idempotency-Key is not finished.",
        retry_after=1,
        turn_id=turn.id,
        conversation_id=turn.conversation_id,
    )


async def _new_conversation(session: AsyncSession, user_id: str) -> int:
    await remember_user(session, user_id)
    return (
        await session.execute(insert(Conversation).values(user_id=user_id).returning(Conversation.id))
    ).scalar_one()


async def _fail_abandoned(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """A running turn whose process has died blocks nobody."""
    abandoned = await session.scalar(
        update(Turn)
        .where(
            Turn.user_id == user_id,
            Turn.conversation_id == conversation_id,
            Turn.status == RUNNING,
            ~turn_is_alive,
        )
        .values(status="failed", error=ABANDONED, finished_at=now())
        .returning(Turn.id)
    )
    if abandoned is not None:
        await chunks.drop(session, user_id, abandoned)


async def _end(session: AsyncSession, run: Run, **values: Any) -> None:
    try:
        await touch_conversation(session, run.user_id, run.conversation_id)
    except ConversationNotFound:  # deleted meanwhile, and the turn with it
        raise TurnCancelled(run.turn_id, run.conversation_id) from None
    ended = await session.scalar(
        update(Turn).where(_ours(run)).values(finished_at=now(), **values).returning(Turn.id)
    )
    if ended is None:
        raise TurnCancelled(run.turn_id, run.conversation_id)


async def _keep(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int, response: str
) -> None:
    """Store what a cancelled turn had said and done, if it had.

    What it had done is in its journal alone: it may have been cancelled during the COMMIT of a call. And there is no
    provider's state: of an answer that broke off they have nothing to go on from.
    """
    calls = await read_journal(session, user_id, turn_id)
    if response or calls:
        await _store_answer(
            session, response, calls, user_id=user_id, conversation_id=conversation_id, turn_id=turn_id
        )


async def _store_answer(
    session: AsyncSession, response: str, tool_calls: Sequence[ToolCall], **columns: Any
) -> int:
    stored = await session.execute(
        insert(Message)
        .values(role="assistant", content=response, tool_calls=msgspec.to_builtins(tool_calls), **columns)
        .returning(Message.id)
    )
    return stored.scalar_one()


def _ours(run: Run) -> ColumnElement[bool]:
    return and_(
        Turn.id == run.turn_id,
        Turn.user_id == run.user_id,
        Turn.run_id == run.run_id,
        Turn.status == RUNNING,
    )
