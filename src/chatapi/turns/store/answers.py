"""How a turn begins to wait for answers, and how it goes on when they are there.

Locks are taken in one order, conversation before turn, so that no two transactions wait for each other.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import WAITING, Message, Turn, Wait, now
from chatapi.db.paging import MAX_ID
from chatapi.errors.requests import Invalid
from chatapi.errors.turns import KeyReused, NotWaiting, TurnCancelled, TurnNotFound, TurnSuperseded
from chatapi.parts import RESULT_BYTES, bounded
from chatapi.turns.replay import joined
from chatapi.turns.schemas import Answer, AnswersOnTerms, AnswersRequest, Pending, Terms, WaitingAnswer
from chatapi.turns.store import end, live, queue
from chatapi.turns.store.alive import may_run_again
from chatapi.turns.store.begin import run_of
from chatapi.turns.store.journal import read_journal
from chatapi.turns.store.rows import ASSISTANT, Claim, Ended, Key, Run, Said, is_ours, outline_of
from chatapi.turns.store.waits import answer_of_wait, given_calls, pending_of, shown_events, told


class Waiting(Struct, frozen=True, kw_only=True):
    """What a run leaves behind when its turn begins to wait; `state` is the agent's."""

    pending: Sequence[Pending]
    state: Any
    seconds: float


class Given(Struct, frozen=True, kw_only=True):
    """Answers that were given before: the turn's conversation, and the number of the wait that they ended."""

    conversation_id: int
    wait: int


async def wait(session: AsyncSession, run: Run, said: Said, waiting: Waiting) -> WaitingAnswer:
    """Let the turn wait; raises `TurnCancelled` when it is no longer this run's."""
    await end.touch_conversation_of(session, run)
    ours = is_ours(run.turn_id, run.user_id, run.run_id)
    used = None if said.usage is None else msgspec.to_builtins(said.usage)
    if (
        await session.scalar(
            update(Turn).where(ours).values(worker_id=WAITING, usage=used).returning(Turn.id)
        )
        is None
    ):
        raise TurnCancelled
    before = select(func.max(Wait.number)).where(Wait.turn_id == run.turn_id, Wait.user_id == run.user_id)
    began = now()
    row = {
        "turn_id": run.turn_id,
        "number": (await session.scalar(before) or 0) + 1,
        "user_id": run.user_id,
        "conversation_id": run.conversation_id,
        "run_id": run.run_id,
        "calls": msgspec.to_builtins(waiting.pending),
        "answers": {},
        "keys": {},
        "events": msgspec.to_builtins(joined(said.events)),
        "state": waiting.state,
        "client_tools": msgspec.to_builtins(run.terms.client_tools),
        "usage": used,
        "began_at": began,
        "expires_at": began + timedelta(seconds=waiting.seconds),
    }
    await session.execute(insert(Wait).values(row))
    await end.replace_answer(session, run.user_id, run.conversation_id, run.turn_id, said)
    await live.drop(session, run.user_id, run.turn_id)
    return answer_of_wait(run.conversation_id, run.turn_id, said, pending_of(Wait(**row)))


async def waited(session: AsyncSession, run: Run) -> WaitingAnswer | None:
    """What `wait` returned for this run, if its COMMIT went through."""
    found = await session.scalar(
        select(Wait).where(
            Wait.turn_id == run.turn_id, Wait.user_id == run.user_id, Wait.run_id == run.run_id
        )
    )
    return None if found is None else await told(session, found)


async def answer(
    session: AsyncSession, user_id: str, turn_id: int, request: AnswersRequest, key: Key | None, claim: Claim
) -> Run | WaitingAnswer | Given:
    """As `TurnStore.answer`, in a transaction that is under way."""
    given = request.answers
    turn, rows = await locked(session, user_id, turn_id)
    row = wait_of(rows, given)
    is_open = row.ended_at is None and turn.waits and not turn.cancel_requested and row.expires_at > now()
    try:
        take_in(row, given, key, is_open=is_open)
    except NotWaiting as error:
        raise error.with_turn(turn_id, turn.conversation_id) from None
    await session.flush()
    if is_open:
        await show_answers(session, row)
    if is_open and len(row.answers) < len(row.calls):
        return await told(session, row)
    if is_open:
        row.ended_at, row.ended_by = now(), "answered"
        if isinstance(request, AnswersOnTerms):
            turn.asked = {**(turn.asked or {}), str(row.number): msgspec.to_builtins(request.asked)}
            row.client_tools = msgspec.to_builtins(request.client_tools)
        await session.flush()
    elif row.ended_by != "answered" or not await is_to_run_again(session, turn, row):
        return Given(conversation_id=turn.conversation_id, wait=row.number)
    await take(session, turn, claim)
    run = await run_of(session, turn, claim, Terms())
    seconds = (now() - row.began_at).total_seconds()
    return replace(run, ended=[Ended(by="answered", seconds=seconds)]) if is_open else run


async def show_answers(session: AsyncSession, row: Wait) -> None:
    """Show the answers in the turn's message, for a page that is reloaded before the turn ends."""
    calls = [bounded(call) for call in await read_journal(session, row.user_id, row.turn_id)]
    said = Said(events=shown_events(row), tool_calls=[*calls, *given_calls(row)])
    await session.execute(
        update(Message)
        .where(Message.turn_id == row.turn_id, Message.user_id == row.user_id, Message.role == ASSISTANT)
        .values(
            tool_calls=msgspec.to_builtins(said.tool_calls),
            parts=msgspec.to_builtins(outline_of(said, said.response)),
        )
    )


async def locked(session: AsyncSession, user_id: str, turn_id: int) -> tuple[Turn, Sequence[Wait]]:
    """The turn with its waits, the last one first, and its conversation locked; raises `TurnNotFound`."""
    turn = None
    if turn_id <= MAX_ID:
        turn = await session.scalar(select(Turn).where(Turn.id == turn_id, Turn.user_id == user_id))
    if turn is None:
        raise TurnNotFound(turn_id)
    await end.touch_conversation(session, user_id, turn.conversation_id)
    await session.refresh(turn)  # it may have changed before the conversation was locked
    rows = await session.scalars(
        select(Wait).where(Wait.turn_id == turn_id, Wait.user_id == user_id).order_by(Wait.number.desc())
    )
    return turn, rows.all()


def take_in(row: Wait, given: Sequence[Answer], key: Key | None, *, is_open: bool) -> None:
    """Add the answers to their wait; raises `KeyReused` and `NotWaiting`."""
    if key is not None:
        if row.keys.get(key.value, key.request_hash) != key.request_hash:
            raise KeyReused
        row.keys = {**row.keys, key.value: key.request_hash}
    before = msgspec.convert(row.answers, dict[str, Answer])
    if any(before.get(each.id, each) != each for each in given):
        raise NotWaiting("These calls were answered otherwise before.")
    news = {each.id: each for each in given if each.id not in before}
    if news and not is_open:
        raise NotWaiting
    row.answers = {**row.answers, **msgspec.to_builtins(news)}


def wait_of(rows: Sequence[Wait], given: Sequence[Answer]) -> Wait:
    """The wait that these answers belong to; raises `NotWaiting` and `Invalid`."""
    if not rows:
        raise NotWaiting
    wanted = {each.id for each in given}
    row = next((row for row in rows if wanted & {call["id"] for call in row.calls}), rows[0])
    kinds = {call["id"]: call["kind"] for call in row.calls}
    errors = [
        (f"answers[{place}]", fault)
        for place, each in enumerate(given)
        if (fault := fault_of(each, kinds.get(each.id)))
    ]
    if len(wanted) < len(given):
        errors.append(("answers", "Each call can have one answer."))
    if errors:
        raise Invalid(*errors)
    return row


def fault_of(given: Answer, kind: str | None) -> str | None:
    """What is wrong with the answer to a call of this kind."""
    told = [name for name in ("approved", "output", "error") if getattr(given, name) is not UNSET]
    if kind is None:
        return f"The turn asks no question with the id {given.id}."
    if len(told) != 1:
        return "An answer has one of approved, output and error."
    if (told == ["approved"]) != (kind == "approval"):
        return (
            "The call waits for an approval: say `approved`, true or false."
            if kind == "approval"
            else "The call is the caller's own: give its `output`, or an `error`."
        )
    if given.reason is not UNSET and kind != "approval":
        return "Only an approval has a reason."
    if given.output is not UNSET and len(msgspec.json.encode(given.output)) > RESULT_BYTES:
        return f"An output has {RESULT_BYTES // 1024} KiB as JSON at the most."
    return None


async def is_to_run_again(session: AsyncSession, turn: Turn, row: Wait) -> bool:
    """Whether the run that went on from this wait has failed or died; raises `TurnSuperseded`."""
    latest = select(func.max(Wait.number)).where(Wait.turn_id == turn.id, Wait.user_id == turn.user_id)
    if turn.waits or await session.scalar(latest) != row.number:
        return False
    lost = select(Turn.id).where(Turn.id == turn.id, Turn.user_id == turn.user_id, may_run_again)
    if await session.scalar(lost) is None:
        return False
    later = select(Turn.id).where(
        Turn.user_id == turn.user_id, Turn.conversation_id == turn.conversation_id, Turn.id > turn.id
    )
    is_followed = await queue.is_followed(session, turn.user_id, turn.conversation_id)
    if is_followed or await session.scalar(later.limit(1)) is not None:
        raise TurnSuperseded("The turn failed and the conversation has gone on since.").with_turn(
            turn.id, turn.conversation_id
        )
    return True


async def take(session: AsyncSession, turn: Turn, claim: Claim) -> None:
    """Make the turn the claim's to run; its row and its conversation's are locked."""
    await session.execute(
        update(Turn)
        .where(Turn.id == turn.id, Turn.user_id == turn.user_id)
        .values(
            status="running",
            worker_id=claim.worker_id,
            run_id=claim.run_id,
            cancel_requested=False,
            error=None,
            finished_at=None,
        )
    )
    await live.drop(session, turn.user_id, turn.id)
