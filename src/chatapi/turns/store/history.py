"""The turns that a model is shown."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Select, Text, and_, cast, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File, HistoryMessage, ToolCall
from chatapi.db.alternatives import is_answered, is_answered_or_under_way, superseded
from chatapi.db.models import Message, Turn
from chatapi.db.paging import MAX_ID
from chatapi.turns.measures import measuring

NO_CALLS = "[]"  # as it is stored with most messages
decode_calls = msgspec.json.Decoder(list[ToolCall]).decode
decode_files = msgspec.json.Decoder(list[File]).decode


class Before(Struct, frozen=True):
    """What a caller has sent before its message, as the state of that message (`Message.provider_state`)."""

    before: Sequence[HistoryMessage]


def messages_before(state: Any) -> Sequence[HistoryMessage]:
    return () if state is None else msgspec.convert(state, Before).before


async def read_history(
    session: AsyncSession, user_id: str, conversation_id: int, *, turns: int, before: int = MAX_ID
) -> list[HistoryMessage]:
    """The messages of the last turns that the model may see, oldest first.

    These are the answered turns, and the cancelled ones that had said or done something; of a turn and those that
    answer it anew, only the last. Failed turns and half turns are left out, so the roles always alternate.
    """
    history = select_history(user_id, conversation_id, turns=turns, before=before)
    with measuring("history"):
        rows = await session.execute(history.order_by(Message.id))
    return to_history(row[1:] for row in rows)


def select_history(
    user_id: str | ColumnElement[str],
    conversation_id: int | ColumnElement[int],
    *,
    turns: int,
    before: int,
) -> Select[tuple[int, str, str, str, Any, str]]:
    """Select the messages of the last turns, in no order; the turns bring the owner along.

    Do not filter messages by `user_id` itself: with stale statistics the planner would scan all messages of the user.
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
        cast(Message.files, Text).label("files"),
    ).join(latest, and_(Message.turn_id == latest.c.id, Message.user_id == latest.c.user_id))


def gone_on_from(turn_id: Any, user_id: Any, conversation_id: Any) -> Select[int]:
    """A turn of the conversation after this one that the model may see or that is under way; a failed one is none."""
    return select(Turn.id).where(
        Turn.user_id == user_id,
        Turn.conversation_id == conversation_id,
        Turn.id > turn_id,
        is_answered_or_under_way(Turn),
    )


def to_history(rows: Iterable[Sequence[Any]]) -> list[HistoryMessage]:
    """Messages of the rows of `select_history`, in their order and without their ids; before each what was sent with it.

    A turn has two answers if a replica of the version before 0006 ran a failed turn again; the last one counts.
    """
    messages: list[HistoryMessage] = []
    for role, content, calls, state, files in rows:
        if role == "user" and state is not None:
            messages += messages_before(state)
            state = None  # noqa: PLW2901 - it is no provider's
        if messages and messages[-1].role == role == "assistant":
            messages.pop()
        messages.append(
            HistoryMessage(
                role=role,
                content=content,
                tool_calls=[] if calls == NO_CALLS else decode_calls(calls),
                provider_state=state,
                files=() if files is None else decode_files(files),
            )
        )
    return messages
