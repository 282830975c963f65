"""The tool by which a model looks back into its own conversation, beyond what it is shown of it."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.tools import Tool
from chatapi.conversations.search.folding import MAX_QUERY
from chatapi.conversations.search.service import SearchService
from chatapi.conversations.search.snippets import END, START
from chatapi.db.alternatives import is_in_history
from chatapi.db.models import Message, Turn
from chatapi.patience import Patience
from chatapi.text import shortened

RECALLED = 8  # turns that a call gives
FOUND = 100  # messages that are looked through for them; more than a window of the default limit has
TEXT_CHARACTERS = 1_000  # of each message
MARKS = str.maketrans("", "", START + END)  # which mean nothing to a model


class Recall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    query: Annotated[
        str, Meta(min_length=1, max_length=MAX_QUERY, description="Words that were said; few find more")
    ]


class RecalledTurn(Struct, frozen=True, kw_only=True):
    """An earlier message of the user, and the answer to it; of a long text what was found, or its beginning and its end."""

    said_at: datetime
    user: str = ""
    assistant: str = ""


class Recalled(Struct, frozen=True, kw_only=True):
    """Best first."""

    turns: Sequence[RecalledTurn]


async def no_conversation(_: AsyncSession, __: str, ___: Recall) -> Recalled:
    """What a call finds that is made in no conversation."""
    return Recalled(turns=[])


RECALL = Tool(
    name="recall",
    title="Look back",
    description="Search what was said earlier in this conversation, before the messages that you are shown. "
    f"The {RECALLED} best turns, best first.",
    arguments=Recall,
    result=Recalled,
    run=no_conversation,
    read_only=True,
    idempotent=True,
    gives_way=True,
)


def recall_in(conversation_id: int, until: int) -> Tool[Any]:
    """The tool for this conversation's turns up to this one."""
    return replace(RECALL, run=partial(recall, conversation_id, until))


async def recall(
    conversation_id: int, until: int, session: AsyncSession, user_id: str, call: Recall
) -> Recalled:
    page = await SearchService(session).search(
        user_id, call.query, limit=FOUND, seconds=Patience().search, conversation_id=conversation_id
    )
    found: dict[int, dict[str, str]] = {}
    for each in page.items:
        if each.turn_id <= until:
            found.setdefault(each.turn_id, {})[each.role] = each.snippet.translate(MARKS)
    turns = await read_turns(session, user_id, conversation_id, found)
    return Recalled(turns=[turns[turn_id] for turn_id in found if turn_id in turns][:RECALLED])


async def read_turns(
    session: AsyncSession, user_id: str, conversation_id: int, found: dict[int, dict[str, str]]
) -> dict[int, RecalledTurn]:
    """Those of these turns that count: failed ones, and those that were answered anew since, do not."""
    if not found:
        return {}
    rows = await session.execute(
        select(Turn.id, Message.role, Message.content, Message.created_at)
        .join(Message, (Message.turn_id == Turn.id) & (Message.user_id == Turn.user_id))
        .where(
            Turn.user_id == user_id,
            Message.user_id == user_id,
            Turn.conversation_id == conversation_id,
            Turn.id.in_(found),
            is_in_history(),
        )
        .order_by(Message.id),
        {"user_id": user_id},
    )
    turns: dict[int, RecalledTurn] = {}
    for turn_id, role, content, created_at in rows:
        text = content
        if len(content) > TEXT_CHARACTERS:
            text = found[turn_id].get(role) or shortened(content, TEXT_CHARACTERS)
        turn = turns.get(turn_id) or RecalledTurn(said_at=created_at)
        turns[turn_id] = replace(turn, **{role: text})
    return turns
