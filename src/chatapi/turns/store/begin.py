"""How a turn begins: as a new one, as a retry of a key, or to answer the last turn anew.

It uses Core statements instead of flushing objects, because a turn's cost is its round trips. Locks are taken in one
order, conversation before turn, so that no two transactions wait for each other.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from sqlalchemy import delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File, HistoryMessage
from chatapi.conversations.deletion import forget_messages
from chatapi.conversations.search.index import attach_title, index_message
from chatapi.db.models import Conversation, Message, Turn, now
from chatapi.db.paging import MAX_ID
from chatapi.db.services import insert_for_user, insert_unless_there
from chatapi.errors.files import FileNotFound
from chatapi.errors.turns import KeyReused, TurnCancelled, TurnNotFound, TurnSuperseded
from chatapi.turns.schemas import AnswerAnew, ChatRequest, Terms
from chatapi.turns.store import live, queue, waits
from chatapi.turns.store.alive import is_abandoned, may_run_again, turn_is_alive
from chatapi.turns.store.attached import attach, still_there
from chatapi.turns.store.busy import make_way, standing_of
from chatapi.turns.store.end import touch_conversation
from chatapi.turns.store.history import History, gone_on_from, read_history
from chatapi.turns.store.journal import read_journal
from chatapi.turns.store.keys import key_in_progress, turn_of_key, who_was_first
from chatapi.turns.store.queue import Queued, in_queue
from chatapi.turns.store.requests import asked_of, before_of, question_of, terms_of
from chatapi.turns.store.rows import USER, Claim, Ended, Key, Run, Stored, answer_of, new_message, new_turn
from chatapi.turns.store.summaries import forget, reopen


async def begin(
    session: AsyncSession, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None, claim: Claim
) -> Run | Queued | Stored:
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
    if key is None or (turn := await turn_of_key(session, user_id, key)) is None:
        return None
    return await _again(session, turn, request, key, claim)


async def begin_new(
    session: AsyncSession,
    user_id: str,
    request: ChatRequest,
    key: Key | None,
    claim: Claim,
    alternative_of: int | None = None,
) -> Run | Queued:
    """As `begin`, for a key that was not seen before; raises `BudgetExceeded`."""
    ended: Sequence[Ended] = ()
    history: History | None = None
    if request.conversation_id is None:
        await claim.budgets.check(session, user_id)
        conversation_id = await _new_conversation(session, user_id, request.source or None)
    else:
        conversation_id = request.conversation_id
        await touch_conversation(session, user_id, conversation_id, archived=False)
        standing = await standing_of(
            session, user_id, conversation_id, claim, before=alternative_of or MAX_ID
        )
        way = await make_way(session, standing, user_id, conversation_id, request, key, claim)
        # A turn that has ended just now may be a part of the history.
        history = standing.history if standing.turn is None else None
        if request.after is not UNSET:
            await check_last(session, request.after, user_id, conversation_id, way)
        if isinstance(way, Queued):
            return way
        ended = way
    columns = new_turn(
        user_id=user_id,
        conversation_id=conversation_id,
        key=key and key.value,
        request_hash=key and key.request_hash,
        claim=claim,
        alternative_of=alternative_of,
        asked=asked_of(request),
        at=now(),
    )
    run = await start(session, columns, request, claim, history)
    if run is None:
        raise await who_was_first(session, user_id, conversation_id, key)
    return replace(run, ended=ended)


async def check_last(
    session: AsyncSession, turn_id: int, user_id: str, conversation_id: int, way: Queued | Sequence[Ended]
) -> None:
    """Raise `TurnSuperseded` if the conversation has gone on from this turn, or others are to follow it."""
    is_second = isinstance(way, Queued) and await queue.is_preceded(session, way)
    later = gone_on_from(turn_id, user_id, conversation_id).limit(1)
    if is_second or await session.scalar(later, {"user_id": user_id}):
        raise TurnSuperseded(
            "The conversation has gone on from there since; only its last turn can be continued."
        ).with_turn(turn_id, conversation_id)


async def start(
    session: AsyncSession,
    columns: dict[str, Any],
    request: ChatRequest,
    claim: Claim,
    history: History | None = None,
) -> Run | None:
    """Insert the turn with its message, and read its history if it is not given; None if another request was first.

    A turn that was queued is given all history, whatever the ids: a replica of the version before may have begun a turn
    while it was queued.
    """
    turn_id = await session.scalar(insert_unless_there(session, Turn, **columns).returning(Turn.id))
    if turn_id is None:
        return None
    user_id, conversation_id = columns["user_id"], columns["conversation_id"]
    earlier = [file.id for message in request.before or () for file in message.files]
    ids = [*(request.files or ()), *earlier]
    files = (await attach(session, user_id, turn_id, conversation_id, ids))[: len(ids) - len(earlier)]
    await ask(session, columns, turn_id, request, files)
    if history is None:
        before = columns["alternative_of"] or MAX_ID
        history = await read_history(session, user_id, conversation_id, turns=claim.history, before=before)
    if request.conversation_id is not None and not history.messages:
        await attach_title(session, user_id, conversation_id)
    return Run(
        turn_id=turn_id,
        run_id=claim.run_id,
        user_id=user_id,
        conversation_id=conversation_id,
        message=request.message,
        terms=request.terms,
        files=files,
        history=[*history.messages, *(request.before or ())],
        window=history.window,
        created_at=columns["created_at"],
    )


async def ask(
    session: AsyncSession, columns: dict[str, Any], turn_id: int, request: ChatRequest, files: Sequence[File]
) -> None:
    """Store the message that the turn answers."""
    user_id, conversation_id = columns["user_id"], columns["conversation_id"]
    question = new_message(
        USER,
        user_id=user_id,
        conversation_id=conversation_id,
        turn_id=turn_id,
        content=request.message,
        tool_calls=[],
        parts=None,
        provider_state=before_of(request),
        at=columns["created_at"],
    )
    if files:
        question["files"] = msgspec.to_builtins(files)
    message_id = (await session.execute(insert(Message).values(question).returning(Message.id))).scalar_one()
    await index_message(session, user_id, conversation_id, message_id, request.message)


async def begin_anew(
    session: AsyncSession, user_id: str, request: AnswerAnew, key: Key | None, claim: Claim
) -> Run | Queued:
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
    if await forget(session, user_id, turn.conversation_id, first):
        await reopen(session, user_id, turn.conversation_id)
    message, files = request.message, request.files
    before: Sequence[HistoryMessage] | UnsetType = UNSET
    if message is None:
        message, sent, earlier = await question_of(session, turn)
        before = earlier or UNSET
        files = await still_there(session, user_id, sent) or UNSET
        if sent and not files and not message.strip():
            raise FileNotFound(sent[0].id)
    return await begin_new(
        session,
        user_id,
        ChatRequest(
            message=message,
            conversation_id=turn.conversation_id,
            client_tools=request.client_tools,
            files=files,
            before=before,
        ),
        key,
        claim,
        alternative_of=first,
    )


async def seen(session: AsyncSession, user_id: str, key: Key) -> Stored | None:
    """The stored answer to a request with this key, or None if its turn is to be begun or run again.

    Raises `KeyReused`, `TurnCancelled` and `KeyInProgress`.
    """
    turn = await turn_of_key(session, user_id, key)
    if turn is None:
        return None
    answer = await _settled(session, turn, key)
    alive = select(Turn.id).where(Turn.id == turn.id, Turn.user_id == user_id, turn_is_alive)
    if turn.status == "running" and await session.scalar(alive) is not None:
        raise key_in_progress(turn)
    return answer


async def begun(session: AsyncSession, user_id: str, claim: Claim, terms: Terms) -> Run | None:
    """The run that `begin` or `begin_queued` made of this claim, if its COMMIT went through."""
    turn = await session.scalar(select(Turn).where(Turn.run_id == claim.run_id, Turn.user_id == user_id))
    return None if turn is None else await run_of(session, turn, claim, terms)


async def _again(
    session: AsyncSession, turn: Turn, request: ChatRequest | AnswerAnew, key: Key, claim: Claim
) -> Run | Stored:
    """A request whose key was seen before."""
    if (answer := await _settled(session, turn, key)) is not None:
        return answer
    await touch_conversation(session, turn.user_id, turn.conversation_id)
    gone_on = exists().where(Turn.conversation_id == turn.conversation_id, Turn.id > turn.id)
    if await session.scalar(
        select(or_(gone_on.where(Turn.user_id == turn.user_id), in_queue(turn.user_id, turn.conversation_id)))
    ):
        raise TurnSuperseded(
            "The turn of this key failed and the conversation has gone on since; send the message anew."
        ).with_turn(turn.id, turn.conversation_id)
    await claim.budgets.check(session, turn.user_id)
    taken = await session.scalar(
        update(Turn)
        .where(Turn.id == turn.id, Turn.user_id == turn.user_id, may_run_again)
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
        left = select(Turn.id).where(Turn.id == turn.id, Turn.user_id == turn.user_id, is_abandoned)
        if await session.scalar(left) is not None:
            raise TurnCancelled().with_turn(turn.id, turn.conversation_id)
        raise key_in_progress(turn)
    await live.drop(session, turn.user_id, turn.id)
    # The new run's answer takes the place of what the failed run had said.
    gone = await session.scalars(
        delete(Message)
        .where(Message.turn_id == turn.id, Message.user_id == turn.user_id, Message.role == "assistant")
        .returning(Message.id)
    )
    await forget_messages(session, turn.user_id, turn.conversation_id, gone.all())
    return await run_of(session, turn, claim, request.terms)


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


async def run_of(session: AsyncSession, turn: Turn, claim: Claim, terms: Terms) -> Run:
    """The claim's run of a turn that has begun before; it goes on from the last wait that was answered.

    `terms` are the caller's, if the turn has not waited.
    """
    wait = await waits.answered(session, turn.user_id, turn.id)
    question = await question_of(session, turn)
    before = turn.alternative_of or turn.id
    history = await read_history(
        session, turn.user_id, turn.conversation_id, turns=claim.history, before=before
    )
    return Run(
        turn_id=turn.id,
        run_id=claim.run_id,
        user_id=turn.user_id,
        conversation_id=turn.conversation_id,
        message=question.text,
        files=question.files,
        history=[*history.messages, *question.before],
        window=history.window,
        journal=await read_journal(session, turn.user_id, turn.id),
        terms=terms if wait is None else terms_of(turn.asked, wait.client_tools),
        wait=wait,
        created_at=turn.created_at,
    )


async def _new_conversation(session: AsyncSession, user_id: str, source: str | None) -> int:
    row = insert(Conversation).values(user_id=user_id, source=source).returning(Conversation.id)
    return await insert_for_user(session, user_id, row)
