"""Messages that are added to a conversation without asking a model.

They are messages like all others, of turns that have ended and that nobody ran (`Turn.was_added`): a user's message and
the assistant's behind it make one, any other message makes one by itself. So they are listed, searched, exported and
deleted with the conversation, and are in the history of later turns.

A call that was added without its outcome is in its message's outline alone; its outcome is a message of its own, with the whole call. So each
can be deleted by itself, and nothing is rewritten.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct
from sqlalchemy import delete, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolCall
from chatapi.conversations.deletion import forget_messages
from chatapi.conversations.search.index import attach_title, rows_of
from chatapi.db.models import ADDED, Message, SearchText, Turn, now
from chatapi.db.services import insert_in_order, insert_unless_there
from chatapi.errors.turns import KeyReused
from chatapi.parts import Call, Part, Step
from chatapi.turns.sides import ADDED_STATE
from chatapi.turns.store import asked, queue
from chatapi.turns.store.attached import attach
from chatapi.turns.store.busy import under_way
from chatapi.turns.store.end import touch_conversation
from chatapi.turns.store.keys import turn_of_key, who_was_first
from chatapi.turns.store.rows import Claim, Key, new_message, new_turn
from chatapi.turns.store.summaries import forget, reopen

LOOKED_BACK = 200  # so many added turns are looked through for a call whose outcome is added later


class AddedMessage(Struct, frozen=True, kw_only=True):
    """A message to add. `files` are ids; `calls` have their outcomes, and `asked` has none."""

    role: Literal["user", "assistant"]
    content: str = ""
    files: Sequence[int] = ()
    calls: Sequence[ToolCall] = ()
    asked: ToolCall | None = None
    is_callers: bool = False  # the calls are of tools of the caller's

    @property
    def parts(self) -> list[Part] | None:
        """The outline, if it needs one (`chatapi.parts`)."""
        if self.asked is not None:
            call = self.asked
            return [Step(), Call(call.id, call.name, call.arguments, asks="client-tool")]
        if self.is_callers:
            return [Step(), *(Call(call.id, asks="client-tool", wait=1) for call in self.calls)]
        return None


class Added(NamedTuple):
    """Turns that were added, in their order."""

    conversation_id: int
    turn_ids: Sequence[int]
    replayed: bool = False


async def add(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    messages: Sequence[AddedMessage],
    key: Key | None = None,
    batch: str | None = None,
) -> Added:
    """Add messages behind all others; with a key that was seen before, find those that it has added.

    `batch` finds them again after a COMMIT whose outcome is unknown (`find`). Raises `ConversationNotFound`, and
    `TurnInProgress` while a turn is under way or queued; for keys `KeyReused` and `KeyInProgress`; for files what
    `attach` raises.
    """
    if (again := await added_before(session, user_id, key)) is not None:
        return again
    await touch_conversation(session, user_id, conversation_id, archived=False)
    is_busy = await under_way(session, user_id, conversation_id) is not None
    if is_busy or await queue.is_followed(session, user_id, conversation_id):
        raise await who_was_first(session, user_id, conversation_id, key)
    turns = list(in_turns(messages))
    turn_ids = await new_turns(
        session, user_id, conversation_id, len(turns), key=key, batch=batch or uuid4().hex
    )
    rows = [
        await columns_of(session, user_id, conversation_id, turn_id, each)
        for turn_id, theirs in zip(turn_ids, turns, strict=True)
        for each in theirs
    ]
    ids = await insert_in_order(session, Message, rows)
    texts = [
        row
        for message_id, columns in zip(ids, rows, strict=True)
        for row in rows_of(user_id, conversation_id, message_id, columns["content"])
    ]
    await session.execute(insert(SearchText), texts)
    await attach_title(session, user_id, conversation_id)
    return Added(conversation_id, turn_ids)


async def added_before(session: AsyncSession, user_id: str, key: Key | None) -> Added | None:
    """What this key has added before; raises `KeyReused` and what `turn_of_key` raises."""
    if key is None:
        return None
    turn = await turn_of_key(session, user_id, key)
    if turn is None:
        return None
    if turn.request_hash != key.request_hash or not turn.was_added:
        raise KeyReused
    found = await find(session, user_id, turn.run_id.partition("-")[0])
    return Added(turn.conversation_id, [] if found is None else found.turn_ids, replayed=True)


async def find(session: AsyncSession, user_id: str, batch: str) -> Added | None:
    """What was added as this batch."""
    found = await session.execute(
        select(Turn.conversation_id, Turn.id)
        .where(Turn.user_id == user_id, Turn.run_id.in_(run_ids_of(batch, MOST)))
        .order_by(Turn.id)
    )
    rows = found.all()
    return Added(rows[0][0], [turn_id for _, turn_id in rows]) if rows else None


MOST = 20  # messages at a time


def run_ids_of(batch: str, count: int) -> list[str]:
    return [f"{batch}-{place}" for place in range(count)]


def in_turns(messages: Sequence[AddedMessage]) -> Iterator[list[AddedMessage]]:
    """The messages of each turn."""
    question: AddedMessage | None = None
    for each in messages:
        if each.role == "assistant":
            yield [each] if question is None else [question, each]
            question = None
            continue
        if question is not None:
            yield [question]
        question = each
    if question is not None:
        yield [question]


async def new_turns(
    session: AsyncSession, user_id: str, conversation_id: int, count: int, *, key: Key | None, batch: str
) -> list[int]:
    """Insert so many turns that have ended; the first has the key."""
    at = now()
    rows = [
        {
            **new_turn(
                user_id=user_id,
                conversation_id=conversation_id,
                key=None,
                request_hash=None,
                claim=Claim(run_id=run_id, worker_id=ADDED, model="", history=0),
                alternative_of=None,
                asked=None,
                at=at,
            ),
            "status": "completed",
            "cancel_requested": False,
            "finished_at": at,
        }
        for run_id in run_ids_of(batch, count)
    ]
    first, *rest = rows
    if key is not None:
        first |= {"idempotency_key": key.value, "request_hash": key.request_hash}
    first_id = await session.scalar(insert_unless_there(session, Turn, **first).returning(Turn.id))
    if first_id is None:  # a request with the same key came between
        raise await who_was_first(session, user_id, conversation_id, key)
    if not rest:
        return [first_id]
    return [first_id, *await insert_in_order(session, Turn, rest)]


async def columns_of(
    session: AsyncSession, user_id: str, conversation_id: int, turn_id: int, message: AddedMessage
) -> dict[str, Any]:
    files = await attach(session, user_id, turn_id, conversation_id, message.files)
    return {
        **new_message(
            literal(message.role),
            user_id=user_id,
            conversation_id=conversation_id,
            turn_id=turn_id,
            content=message.content,
            tool_calls=msgspec.to_builtins(message.calls),
            parts=msgspec.to_builtins(message.parts),
            provider_state=ADDED_STATE if message.role == "assistant" else None,
            at=now(),
        ),
        "role": message.role,
        "files": msgspec.to_builtins(files) or None,
    }


async def open_calls(session: AsyncSession, user_id: str, conversation_id: int) -> dict[str, ToolCall]:
    """The calls that were added to the conversation without an outcome, by their ids."""
    found = await session.execute(
        select(Message.parts, Message.tool_calls)
        .join(Turn, (Turn.id == Message.turn_id) & (Turn.user_id == Message.user_id))
        .where(
            Turn.user_id == user_id,
            Turn.conversation_id == conversation_id,
            Turn.worker_id == ADDED,
            Message.role == "assistant",
        )
        .order_by(Turn.id.desc())
        .limit(LOOKED_BACK)
    )
    open_: dict[str, ToolCall] = {}
    settled: set[str] = set()
    for parts, calls in found:
        settled.update(call["id"] for call in calls)
        for part in msgspec.convert(parts or [], list[Part]):
            if isinstance(part, Call) and part.id not in settled:
                open_[part.id] = ToolCall(id=part.id, name=part.name, arguments=part.arguments)
    return open_


async def remove(
    session: AsyncSession,
    user_id: str,
    conversation_id: int,
    turn_id: int,
    role: Literal["user", "assistant"],
) -> None:
    """Delete a turn's message of this role; the turn goes with its last message."""
    of_turn = (Message.turn_id == turn_id, Message.user_id == user_id)
    other = select(Message.id).where(*of_turn, Message.role != role)
    if await session.scalar(other.limit(1)) is None:
        await asked.remove(session, user_id, turn_id, alone=False)
        return
    await touch_conversation(session, user_id, conversation_id)
    gone = await session.scalars(delete(Message).where(*of_turn, Message.role == role).returning(Message.id))
    await forget_messages(session, user_id, conversation_id, gone.all())
    if await forget(session, user_id, conversation_id, turn_id):
        await reopen(session, user_id, conversation_id)
