"""What is stored of the request that a turn answers, and how it is read again."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File, HistoryMessage
from chatapi.db.models import Message, Turn
from chatapi.db.paging import MAX_ID
from chatapi.errors.requests import Invalid
from chatapi.turns.schemas import Asked, ChatRequest, ClientTool, Terms
from chatapi.turns.store.history import Before, messages_before


def is_uncommon(request: ChatRequest) -> bool:
    """Whether the plain form has to begin the turn."""
    return (
        (request.conversation_id or 0) > MAX_ID
        or request.files is not UNSET
        or any(message.files for message in request.before or ())
    )


def asked_of(request: ChatRequest) -> dict[str, Any] | None:
    """`Turn.asked` of a turn that begins."""
    asked = request.asked
    return None if asked is None else {"0": msgspec.to_builtins(asked)}


def before_of(request: ChatRequest) -> dict[str, Any] | None:
    """`Message.provider_state` of the question."""
    return msgspec.to_builtins(Before(request.before)) if request.before else None


def terms_of(asked: Mapping[str, Any] | None, client_tools: Sequence[ClientTool]) -> Terms:
    """The terms of the last request that the turn answers."""
    return (Asked() if not asked else msgspec.convert(asked[max(asked, key=int)], Asked)).terms(client_tools)


class Question(NamedTuple):
    """A user's message, its files, and what its caller sent before it."""

    text: str
    files: Sequence[File]
    before: Sequence[HistoryMessage]


async def question_of(session: AsyncSession, turn: Turn) -> Question:
    """The message that the turn answers; raises `Invalid` if the turn was added without one."""
    found = await session.execute(
        select(Message.content, Message.files, Message.provider_state).where(
            Message.turn_id == turn.id, Message.user_id == turn.user_id, Message.role == "user"
        )
    )
    if (row := found.one_or_none()) is None:
        raise Invalid(("message", "is missing, and this turn has none that could be answered anew"))
    text, files, state = row
    return Question(text, msgspec.convert(files or [], list[File]), messages_before(state))
