"""What is stored of summaries: the newest one of a conversation, and the one that is to be written.

A conversation has one row that is to be written at the most: the next number is taken only while there is none, and the key
lets one process have it. Locks are taken in one order, conversation before summary.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import asdict, replace
from sqlalchemy import ColumnElement, Text, and_, case, cast, delete, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import HistoryMessage, ToolCall
from chatapi.db.alternatives import is_in_history
from chatapi.db.models import Conversation, Message, Summary, Turn, now
from chatapi.db.services import insert_unless_there
from chatapi.db.texts import owned_by
from chatapi.turns.sides import paragraphs
from chatapi.turns.store.history import decode_calls, decode_files, messages_before
from chatapi.turns.store.window import moved

TURNS = 100  # that one summary adds at the most: bounds what is read at a time
LOOKED_FOR = 3  # after so many failures only the end of a turn in the conversation tries again


class Place(Struct, frozen=True, kw_only=True):
    """A user's conversation."""

    user_id: str
    conversation_id: int


class Due(Place, frozen=True, kw_only=True):
    """A summary that is to be written at `due_at`, or is being written until then."""

    number: int
    due_at: datetime


class SaidTurn(Struct, frozen=True, kw_only=True):
    """A turn as a summary is made of it. `before` is what its caller sent before the question, `files` are names."""

    id: int
    before: Sequence[HistoryMessage] = ()
    question: str = ""
    files: Sequence[str] = ()
    calls: Sequence[ToolCall] = ()
    answer: str = ""


class Material(Struct, frozen=True, kw_only=True):
    """What a summary is made of: the one before it, and the turns since. `wanted` is the turn up to which it is wanted."""

    before: str | None
    turns: Sequence[SaidTurn]
    wanted: int
    failures: int


def of_conversation(place: Place) -> ColumnElement[bool]:
    return and_(Summary.user_id == place.user_id, Summary.conversation_id == place.conversation_id)


def claimed(claim: Due) -> ColumnElement[bool]:
    """Whether the row is still this claim's: it may have been deleted, or another process may have taken it over."""
    return and_(of_conversation(claim), Summary.number == claim.number, Summary.due_at == claim.due_at)


def counted(user_id: str, conversation_id: int) -> ColumnElement[bool]:
    """The turns of a conversation that its model may see, as `history.select_history` has them.

    `user_id` is a parameter of the statement, too.
    """
    return and_(
        Turn.user_id == user_id,
        Turn.conversation_id == conversation_id,
        is_in_history(),
    )


class Newest(NamedTuple):
    """The newest summary, and the last turn that it covers."""

    turn_id: int
    content: str


async def newest(session: AsyncSession, place: Place) -> Newest | None:
    found = await session.execute(
        select(Summary.turn_id, Summary.content)
        .where(of_conversation(place), Summary.content.is_not(None))
        .order_by(Summary.number.desc())
        .limit(1)
    )
    row = found.one_or_none()
    return None if row is None or row.content is None else Newest(row.turn_id, row.content)


async def last_row(session: AsyncSession, place: Place) -> Summary | None:
    found: Summary | None = await session.scalar(
        select(Summary).where(of_conversation(place)).order_by(Summary.number.desc()).limit(1)
    )
    return found


async def under_way(session: AsyncSession, place: Place) -> int | None:
    """The turn up to which a summary is being written, or waits for its next try."""
    last = await last_row(session, place)
    if last is None or last.due_at is None or last.due_at <= now():
        return None
    return last.turn_id


async def want(session: AsyncSession, place: Place, turn_id: int, until: datetime) -> Due | None:
    """Claim the writing of a summary up to this turn until that moment.

    Returns None if there is one, another process writes one, or the last try has failed a moment ago.
    """
    last = await last_row(session, place)
    if not is_due(last, turn_id):
        return None
    if last is None or last.content is not None:
        claim = due_in(place, 1 if last is None else last.number + 1, until)
        row = insert_unless_there(
            session, Summary, **asdict(claim), turn_id=turn_id, failures=0, created_at=now()
        )
        return None if await session.scalar(row.returning(Summary.number)) is None else claim
    assert last.due_at is not None  # noqa: S101 - one that is not written yet is due some time
    return await take(session, due_in(place, last.number, last.due_at), until, turn_id)


async def is_wanted(session: AsyncSession, place: Place, turn_id: int) -> bool:
    """Whether `want` would claim it now."""
    return is_due(await last_row(session, place), turn_id)


def is_due(last: Summary | None, turn_id: int) -> bool:
    if last is None:
        return True
    if last.content is not None:
        return last.turn_id < turn_id
    return last.due_at is not None and last.due_at <= now()


def due_in(place: Place, number: int, due_at: datetime) -> Due:
    return Due(user_id=place.user_id, conversation_id=place.conversation_id, number=number, due_at=due_at)


async def take(session: AsyncSession, due: Due, until: datetime, turn_id: int = 0) -> Due | None:
    """Claim a summary that is due; `turn_id` is the turn up to which it is wanted now, if that has grown."""
    wanted = case((Summary.turn_id < turn_id, turn_id), else_=Summary.turn_id)
    taken = await session.scalar(
        update(Summary).where(claimed(due)).values(due_at=until, turn_id=wanted).returning(Summary.number)
    )
    return None if taken is None else replace(due, due_at=until)


async def find_due(session: AsyncSession, limit: int) -> Sequence[Due]:
    """Everybody's summaries that are due, and were not tried too often."""
    rows = await session.execute(
        select(Summary.user_id, Summary.conversation_id, Summary.number, Summary.due_at)
        .where(Summary.due_at < now(), Summary.failures < LOOKED_FOR)
        .order_by(Summary.due_at)
        .limit(limit)
    )
    return [
        Due(user_id=user_id, conversation_id=conversation_id, number=number, due_at=due_at)
        for user_id, conversation_id, number, due_at in rows
        if due_at is not None
    ]


async def gather(session: AsyncSession, claim: Due) -> Material | None:
    """What the claimed summary is to be made of, oldest first. If nothing is, the row goes."""
    found = await session.execute(select(Summary.turn_id, Summary.failures).where(claimed(claim)))
    row = found.one_or_none()
    if row is None:
        return None
    wanted, failures = row
    done = await newest(session, claim)
    turns = await said_turns(session, claim, after=0 if done is None else done.turn_id, until=wanted)
    if not turns:  # they were deleted
        await session.execute(delete(Summary).where(claimed(claim)))
        return None
    before = None if done is None else done.content
    return Material(before=before, turns=turns, wanted=wanted, failures=failures)


async def said_turns(session: AsyncSession, place: Place, *, after: int, until: int) -> Sequence[SaidTurn]:
    """The first turns between these two, without the first of them."""
    user_id, conversation_id = place.user_id, place.conversation_id
    which = (
        select(Turn.id, Turn.user_id)
        .where(counted(user_id, conversation_id), Turn.id > after, Turn.id <= until)
        .order_by(Turn.id)
        .limit(TURNS)
        .subquery("which")
    )
    rows = await session.execute(
        select(
            Message.turn_id,
            Message.role,
            Message.content,
            cast(Message.tool_calls, Text),
            Message.provider_state,
            cast(Message.files, Text),
        )
        .join(
            which,
            and_(
                Message.turn_id == which.c.id,
                Message.user_id == which.c.user_id,
                owned_by(Message.user_id, user_id),
            ),
        )
        .order_by(Message.id),
        {"user_id": user_id},
    )
    turns: dict[int, SaidTurn] = {}
    for turn_id, role, content, calls, state, files in rows:
        turn = turns.get(turn_id) or SaidTurn(id=turn_id)
        if role == "user":
            names = () if files is None else [file.name for file in decode_files(files)]
            question = paragraphs(turn.question, content)
            turn = replace(turn, before=messages_before(state), question=question, files=names)
        else:
            answer = paragraphs(turn.answer, content)
            turn = replace(turn, answer=answer, calls=[*turn.calls, *decode_calls(calls)])
        turns[turn_id] = turn
    return [turns[turn_id] for turn_id in sorted(turns)]


async def to_sum_up(session: AsyncSession, place: Place) -> int | None:
    """The turn up to which a conversation can be summed up: the last but one, so that the last stays as it was said.

    None if there is nothing that no summary has.
    """
    found = await session.scalars(
        select(Turn.id)
        .where(counted(place.user_id, place.conversation_id))
        .order_by(Turn.id.desc())
        .limit(2),
        {"user_id": place.user_id},
    )
    turns = found.all()
    done = await newest(session, place)
    is_new = len(turns) == 2 and (done is None or turns[1] > done.turn_id)
    return turns[1] if is_new else None


async def settle(session: AsyncSession, claim: Due, *, turn_id: int, content: str, model: str) -> bool:
    """Store the summary, and let the window begin after the last turn that it covers.

    Returns False, and changes nothing, if the row is not this claim's any more. The summary before it stays, for when
    this one becomes void; those before that go.
    """
    conversation = (Conversation.id == claim.conversation_id, Conversation.user_id == claim.user_id)
    await session.execute(select(Conversation.id).where(*conversation).with_for_update())
    stored = await session.scalar(
        update(Summary)
        .where(claimed(claim))
        .values(turn_id=turn_id, content=content, model=model, due_at=None)
        .returning(Summary.number)
    )
    if stored is None:
        return False
    window_after = literal(turn_id, Conversation.window_after.type)
    await session.execute(
        update(Conversation)
        .where(*conversation)
        .values(**moved(window_after), updated_at=Conversation.updated_at)
    )
    await session.execute(delete(Summary).where(of_conversation(claim), Summary.number < claim.number - 1))
    return True


async def put_off(session: AsyncSession, claim: Due, until: datetime, *, failed: bool) -> None:
    """Try again at that moment, or later."""
    await session.execute(
        update(Summary).where(claimed(claim)).values(due_at=until, failures=Summary.failures + int(failed))
    )


async def forget(session: AsyncSession, user_id: str, conversation_id: int, turn_id: int) -> bool:
    """Delete the summaries that cover this turn, the one being made included; returns whether there were any.

    The conversation is locked.
    """
    place = Place(user_id=user_id, conversation_id=conversation_id)
    gone = await session.scalars(
        delete(Summary).where(of_conversation(place), Summary.turn_id >= turn_id).returning(Summary.number)
    )
    return bool(gone.all())


async def reopen(session: AsyncSession, user_id: str, conversation_id: int) -> None:
    """Let the window begin after the newest summary, or else with the conversation: what has fallen out may come in again."""
    done = await newest(session, Place(user_id=user_id, conversation_id=conversation_id))
    await session.execute(
        update(Conversation)
        .where(Conversation.id == conversation_id, Conversation.user_id == user_id)
        .values(window_after=done and done.turn_id, updated_at=Conversation.updated_at)
    )
