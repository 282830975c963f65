"""How a turn begins: as a new one, as a retry of a key, or to answer the last turn anew.

It uses Core statements instead of flushing objects, because a turn's cost is its round trips. Locks are taken in one
order, conversation before turn, so that no two transactions wait for each other.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import msgspec
from msgspec import UNSET
from sqlalchemy import and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import Usage
from chatapi.conversations.deletion import forget_messages
from chatapi.conversations.search.index import index_message
from chatapi.db.models import RUNNING, WAITING, Conversation, Message, Turn, now
from chatapi.db.services import insert_unless_there, remember_user
from chatapi.errors.turns import (
    KeyInProgress,
    KeyReused,
    TurnCancelled,
    TurnInProgress,
    TurnNotFound,
    TurnSuperseded,
)
from chatapi.turns.schemas import AnswerAnew, ChatRequest, ClientTool
from chatapi.turns.store import live, waits
from chatapi.turns.store.attached import attach, still_there
from chatapi.turns.store.end import end_wait, fail_abandoned, touch_conversation
from chatapi.turns.store.history import read_history
from chatapi.turns.store.journal import read_journal
from chatapi.turns.store.rows import (
    USER,
    Claim,
    Ended,
    Key,
    Run,
    Stored,
    answer_of,
    new_message,
    new_turn,
    question_of,
    turn_is_alive,
)

KEY_RETENTION = timedelta(hours=24)  # a client that retries does so within minutes


async def begin(
    session: AsyncSession, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None, claim: Claim
) -> Run | Stored:
    """As `TurnStore.begin`, in a transaction that is under way."""
    if (again := await begin_again(session, user_id, request, key, claim)) is not None:
        return again
    if isinstance(request, AnswerAnew):
        return await begin_anew(session, user_id, request, key, claim)
    return await begin_new(session, user_id, request, key, claim)


async def begin_again(
    session: AsyncSession, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None, claim: Claim
) -> Run | Stored | None:
    """As `begin` for a key that was seen before; None for any other."""
    if key is None or (turn := await _turn_of_key(session, user_id, key)) is None:
        return None
    return await _again(session, turn, request, key, claim)


async def begin_new(
    session: AsyncSession,
    user_id: str,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
    alternative_of: int | None = None,
) -> Run:
    """As `begin`, for a key that was not seen before; raises `BudgetExceeded`."""
    await claim.budgets.check(session, user_id)
    ended: Sequence[Ended] = ()
    if request.conversation_id is None:
        conversation_id = await _new_conversation(session, user_id)
    else:
        conversation_id = request.conversation_id
        await touch_conversation(session, user_id, conversation_id, archived=False)
        ended = await make_way(session, user_id, conversation_id)

    columns = new_turn(
        user_id=user_id,
        conversation_id=conversation_id,
        key=key and key.value,
        request_hash=key and key.request_hash,
        claim=claim,
        alternative_of=alternative_of,
        at=now(),
    )
    turn_id = await session.scalar(insert_unless_there(session, Turn, **columns).returning(Turn.id))
    if turn_id is None:
        raise await _who_was_first(session, user_id, conversation_id, key)
    files = await attach(session, user_id, turn_id, conversation_id, request.files or ())
    question = new_message(
        USER,
        user_id=user_id,
        conversation_id=conversation_id,
        turn_id=turn_id,
        content=request.message,
        tool_calls=[],
        parts=None,
        provider_state=None,
        at=now(),
    )
    if files:
        question["files"] = msgspec.to_builtins(files)
    message_id = (await session.execute(insert(Message).values(question).returning(Message.id))).scalar_one()
    await index_message(session, user_id, conversation_id, message_id, request.message)
    return Run(
        turn_id=turn_id,
        run_id=claim.run_id,
        user_id=user_id,
        conversation_id=conversation_id,
        message=request.message,
        client_tools=request.offered,
        ended=ended,
        files=files,
        history=await read_history(
            session, user_id, conversation_id, turns=claim.history, before=alternative_of or turn_id
        ),
    )


async def make_way(session: AsyncSession, user_id: str, conversation_id: int) -> list[Ended]:
    """End a turn whose process has died, or that waits for answers; returns the waits that this has ended."""
    ended = []
    of_conversation = (Turn.user_id == user_id, Turn.conversation_id == conversation_id)
    running = await session.execute(
        select(Turn.id, Turn.worker_id, Turn.cancel_requested, turn_is_alive).where(
            *of_conversation, Turn.status == RUNNING
        )
    )
    for turn_id, worker_id, cancel_requested, is_alive in running.all():
        if worker_id == WAITING:
            by: Literal["cancelled", "superseded"] = "cancelled" if cancel_requested else "superseded"
            ended.append(await end_wait(session, user_id, turn_id, by))
        elif not is_alive:
            await fail_abandoned(session, *of_conversation, ~turn_is_alive)
    return [wait for wait in ended if wait is not None]


async def begin_anew(
    session: AsyncSession, user_id: str, request: AnswerAnew, key: Key | None, claim: Claim
) -> Run:
    """Answer the last turn anew: the same message or an edited one, with what came before it as history.

    The turn that is answered anew stays as it is: the order of the turns shows which answer counts.
    """
    of_user = Turn.user_id == user_id
    turn = await session.scalar(select(Turn).where(Turn.id == request.turn_id, of_user))
    if turn is None:
        raise TurnNotFound(request.turn_id)
    first = turn.alternative_of or turn.id
    await touch_conversation(session, user_id, turn.conversation_id)
    last = (
        select(func.coalesce(Turn.alternative_of, Turn.id))
        .where(of_user, Turn.conversation_id == turn.conversation_id)
        .order_by(Turn.id.desc())
        .limit(1)
    )
    if await session.scalar(last) != first:
        raise TurnSuperseded(
            "The conversation has gone on since; only its last turn can be answered anew."
        ).with_turn(turn.id, turn.conversation_id)
    message, files = request.message, request.files
    if message is None:
        message, sent = await question_of(session, turn)
        files = await still_there(session, user_id, sent) or UNSET
    return await begin_new(
        session,
        user_id,
        ChatRequest(
            message=message,
            conversation_id=turn.conversation_id,
            client_tools=request.client_tools,
            files=files,
        ),
        key,
        claim,
        alternative_of=first,
    )


async def seen(session: AsyncSession, user_id: str, key: Key) -> Stored | None:
    """The stored answer to a request with this key, or None if its turn is to be begun or run again.

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


async def begun(
    session: AsyncSession, user_id: str, claim: Claim, offered: Sequence[ClientTool]
) -> Run | None:
    """The run that `begin` made of this claim, if its COMMIT went through."""
    turn = await session.scalar(select(Turn).where(Turn.run_id == claim.run_id, Turn.user_id == user_id))
    return None if turn is None else await run_of(session, turn, claim, offered)


async def _again(
    session: AsyncSession, turn: Turn, request: ChatRequest | AnswerAnew, key: Key, claim: Claim
) -> Run | Stored:
    """A request whose key was seen before."""
    if (answer := await _settled(session, turn, key)) is not None:
        return answer
    await touch_conversation(session, turn.user_id, turn.conversation_id)
    gone_on = exists().where(Turn.conversation_id == turn.conversation_id, Turn.id > turn.id)
    if await session.scalar(select(gone_on.where(Turn.user_id == turn.user_id))):
        raise TurnSuperseded(
            "The turn of this key failed and the conversation has gone on since; send the message anew."
        ).with_turn(turn.id, turn.conversation_id)
    await claim.budgets.check(session, turn.user_id)
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
            usage=None,
            finished_at=None,
        )
        .returning(Turn.id)
    )
    if taken is None:
        raise _key_in_progress(turn)
    await live.drop(session, turn.user_id, turn.id)
    # The new run's answer takes the place of what the failed run had said.
    gone = await session.scalars(
        delete(Message)
        .where(Message.turn_id == turn.id, Message.user_id == turn.user_id, Message.role == "assistant")
        .returning(Message.id)
    )
    await forget_messages(session, turn.user_id, turn.conversation_id, gone.all())
    return await run_of(session, turn, claim, request.offered)


async def _settled(session: AsyncSession, turn: Turn, key: Key) -> Stored | None:
    """The answer of a key's turn, or None if the turn may be run again; raises what a retry cannot change."""
    if turn.request_hash != key.request_hash:
        raise KeyReused
    if turn.status == "completed":
        return await answer_of(session, turn)
    if turn.waits and (wait := await waits.open_wait(session, turn.user_id, turn.id)) is not None:
        return Stored(answer=await waits.told(session, wait), events=waits.shown_events(wait))
    if turn.status == "cancelled":
        raise TurnCancelled().with_turn(turn.id, turn.conversation_id)
    return None


async def run_of(session: AsyncSession, turn: Turn, claim: Claim, offered: Sequence[ClientTool] = ()) -> Run:
    """The claim's run of a turn that has begun before; it goes on from the last wait that was answered.

    `offered` are the caller's tools, if the turn has not waited.
    """
    wait = await waits.answered(session, turn.user_id, turn.id)
    message, files = await question_of(session, turn)
    return Run(
        turn_id=turn.id,
        run_id=claim.run_id,
        user_id=turn.user_id,
        conversation_id=turn.conversation_id,
        message=message,
        files=files,
        history=await read_history(
            session,
            turn.user_id,
            turn.conversation_id,
            turns=claim.history,
            before=turn.alternative_of or turn.id,
        ),
        journal=await read_journal(session, turn.user_id, turn.id),
        client_tools=offered if wait is None else wait.client_tools,
        wait=wait,
        used=None if wait is None or turn.usage is None else msgspec.convert(turn.usage, Usage),
    )


async def _turn_of_key(session: AsyncSession, user_id: str, key: Key) -> Turn | None:
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


async def _who_was_first(
    session: AsyncSession, user_id: str, conversation_id: int, key: Key | None
) -> KeyInProgress | KeyReused | TurnInProgress:
    """Why a turn could not be claimed: a request with the same key came between, or the conversation has one."""
    if key is not None and (turn := await _turn_of_key(session, user_id, key)) is not None:
        return _key_in_progress(turn) if turn.request_hash == key.request_hash else KeyReused()
    running = await session.scalar(
        select(Turn.id).where(
            Turn.user_id == user_id, Turn.conversation_id == conversation_id, Turn.status == RUNNING
        )
    )
    error = TurnInProgress()
    # The other turn may have ended just now.
    return error if running is None else error.with_turn(running, conversation_id)


def _key_in_progress(turn: Turn) -> KeyInProgress:
    return KeyInProgress().with_turn(turn.id, turn.conversation_id)


async def _new_conversation(session: AsyncSession, user_id: str) -> int:
    await remember_user(session, user_id)
    return (
        await session.execute(insert(Conversation).values(user_id=user_id).returning(Conversation.id))
    ).scalar_one()
