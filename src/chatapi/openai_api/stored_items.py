"""The items of stored turns: of a conversation, of a response's input, or by their ids."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace
from sqlalchemy import and_, case, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import HistoryMessage, ToolCall
from chatapi.db.alternatives import is_shown
from chatapi.db.models import ADDED, Message, Turn
from chatapi.db.paging import MAX_ID, in_conversation
from chatapi.errors.openai_api import ItemNotFound
from chatapi.files.schemas import FileRef
from chatapi.openai_api.items import (
    Item,
    JSONObject,
    arguments_of,
    items_of,
    output_of,
    output_text,
)
from chatapi.parts import Part
from chatapi.turns.log import ToolEnded, ToolStarted, TurnEvent
from chatapi.turns.replay import events_of
from chatapi.turns.store.history import messages_before
from chatapi.turns.store.live import own_conversation

Order = Literal["asc", "desc"]
# Of an item that came in, too: those have more numbers.
STORED_ID = re.compile(r"[a-z]+_([1-9][0-9]{0,18})(?:_[0-9]+)+", re.ASCII)


class StoredTurn(Struct, kw_only=True):
    """A turn's messages: what was sent before its question, the question, and the events of its answer.

    `was_added`: nobody was asked (`turns.store.added`); only then there may be no question.
    """

    turn_id: int
    was_added: bool = False
    question: str | None = None
    files: Sequence[FileRef] = ()
    before: Sequence[HistoryMessage] = ()
    events: Sequence[TurnEvent] = ()

    @property
    def items(self) -> list[Item]:
        """The output items of all the turn's responses."""
        items = items_of(self.turn_id, self.events)
        return [replace(item, has_own_call_id=True) for item in items] if self.was_added else items

    def input_of(self, wait: int) -> list[JSONObject]:
        """The input of the turn's response of this number."""
        return self.answers_of(wait) if wait else [*self._items_before(), *self._question()]

    @property
    def conversation_items(self) -> list[JSONObject]:
        """All items of the turn, in their order."""
        if self.was_added:
            return [*self._question(), *self._added_items()]
        bodies = self.input_of(0)
        wait = 0
        for item in self.items:
            while wait < item.wait:
                wait += 1
                bodies += self.answers_of(wait)
            bodies.append(item.body)
        waits = max((event.wait for event in self.events if isinstance(event, ToolEnded)), default=0)
        for later in range(wait + 1, waits + 1):
            bodies += self.answers_of(later)
        return bodies

    def answers_of(self, wait: int) -> list[JSONObject]:
        """The answers for which the turn has waited that time."""
        asked = {item.call.id: item for item in self.items if item.call and item.wait == wait - 1}
        started = {event.id: event for event in self.events if isinstance(event, ToolStarted)}
        bodies: list[JSONObject] = []
        for event in self.events:
            if not isinstance(event, ToolEnded) or event.wait != wait:
                continue
            item = asked.get(event.call.id)
            if item is None:
                continue
            if item.kind == "function_call":
                bodies.append(output_item(self.turn_id, item, event.call))
            elif item.kind == "mcp_approval_request":
                approval = started[event.call.id].approval
                reason = None if approval is None or approval.reason is UNSET else approval.reason
                bodies.append(
                    {
                        "id": f"mcpa_{self.turn_id}_{item.number}",
                        "type": "mcp_approval_response",
                        "approval_request_id": item.id,
                        "approve": approval is not None and approval.approved is True,
                        "reason": reason,
                    }
                )
        return bodies

    def _question(self) -> list[JSONObject]:
        if self.question is None:
            return []
        return [message_of(f"msg_{self.turn_id}_0", self.question, self.files)]

    def _added_items(self) -> list[JSONObject]:
        """The items of the answer: an outcome was added as an item of its own, which has its call."""
        outcomes = {event.call.id: event.call for event in self.events if isinstance(event, ToolEnded)}
        return [
            output_item(self.turn_id, item, outcomes[item.call_id])
            if item.kind == "function_call" and item.call_id in outcomes
            else item.body
            for item in self.items
        ]

    def _items_before(self) -> list[JSONObject]:
        bodies: list[JSONObject] = []
        for place, said in enumerate(self.before):
            key = f"{self.turn_id}_0_{place}"
            if said.role == "user":
                bodies.append(message_of(f"msg_{key}", said.content, said.files))
                continue
            for number, call in enumerate(said.tool_calls):
                bodies += called(f"{key}_{number}", call)
            if said.content:
                bodies.append(
                    {
                        "id": f"msg_{key}",
                        "type": "message",
                        "role": "assistant",
                        "status": "completed",
                        "content": [output_text(said.content)],
                    }
                )
        return bodies


def output_item(turn_id: int, item: Item, call: ToolCall) -> JSONObject:
    """The outcome of a `function_call`."""
    error = call.error if isinstance(call.error, str) else None
    return {
        "id": f"fco_{turn_id}_{item.number}",
        "type": "function_call_output",
        "call_id": item.call_id,
        "output": output_of(call) or error or "",
        "status": "completed",
    }


def message_of(item_id: str, text: str, files: Sequence[FileRef]) -> JSONObject:
    """A user's message."""
    content: list[JSONObject] = [part_of(file) for file in files]
    if text or not content:
        content.append({"type": "input_text", "text": text})
    return {"id": item_id, "type": "message", "role": "user", "status": "completed", "content": content}


def part_of(file: FileRef) -> JSONObject:
    file_id = f"file-{file.id}"
    if file.media_type.startswith("image/"):
        return {"type": "input_image", "detail": "auto", "file_id": file_id, "image_url": None}
    return {"type": "input_file", "file_id": file_id, "filename": file.name}


def called(key: str, call: ToolCall) -> list[JSONObject]:
    """A call that the caller has sent with its outcome."""
    return [
        {
            "id": f"fc_{key}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments_of(call),
        },
        {
            "id": f"fco_{key}",
            "type": "function_call_output",
            "status": "completed",
            "call_id": call.id,
            "output": output_of(call) or "",
        },
    ]


async def turns_by_id(session: AsyncSession, user_id: str, turn_ids: Sequence[int]) -> dict[int, StoredTurn]:
    """Those of these turns that are the user's."""
    # A model's own state is large, and for the model alone.
    before = case((Message.role == "user", Message.provider_state))
    rows = await session.execute(
        select(
            Message.turn_id,
            Message.role,
            Message.content,
            Message.tool_calls,
            Message.parts,
            Message.files,
            before,
            Turn.worker_id == ADDED,
        )
        .join(Turn, and_(Turn.id == Message.turn_id, Turn.user_id == Message.user_id))
        .where(Message.turn_id.in_(turn_ids), Message.user_id == user_id)
        .order_by(Message.id)
    )
    turns: dict[int, StoredTurn] = {}
    for turn_id, role, content, calls, parts, files, state, was_added in rows:
        turn = turns.setdefault(turn_id, StoredTurn(turn_id=turn_id, was_added=was_added))
        if role == "user":
            turn.question = content
            turn.files = msgspec.convert(files or [], list[FileRef])
            turn.before = messages_before(state)
        else:
            outline = msgspec.convert(parts, list[Part] | None)
            turn.events = events_of(outline, content, msgspec.convert(calls, list[ToolCall]))
    return turns


class ItemPage(NamedTuple):
    data: list[JSONObject]
    has_more: bool


async def conversation_page(
    session: AsyncSession, user_id: str, conversation_id: int, *, limit: int, after: str | None, order: Order
) -> ItemPage:
    """A page of a conversation's items; raises `ConversationNotFound`, and `ItemNotFound` for `after`."""
    await own_conversation(session, user_id, conversation_id)
    place = None if after is None else turn_in(after, "after")
    ids: dict[str, int] = {}
    if place is not None:
        ids = {"before": place + 1} if order == "desc" else {"after": place - 1}
    statement = (
        select(Turn.id)
        .where(
            Turn.user_id == user_id,
            in_conversation(session, Turn, conversation_id, **ids),
            is_shown(),
        )
        .order_by(Turn.id.desc() if order == "desc" else Turn.id)
        .limit(limit + 2)  # each has an item at least, and `after` is in the first
    )
    turn_ids = (await session.scalars(statement, {"user_id": user_id})).all()
    stored = await turns_by_id(session, user_id, turn_ids)
    items: list[JSONObject] = []
    for turn_id in turn_ids:
        if turn_id in stored:
            bodies = stored[turn_id].conversation_items
            items += reversed(bodies) if order == "desc" else bodies
    return page_of(items, limit=limit, after=after)


def page_of(items: Sequence[JSONObject], *, limit: int, after: str | None) -> ItemPage:
    """The items after this one; raises `ItemNotFound`."""
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ItemNotFound(after, "after")
        start = places[0] + 1
    return ItemPage(list(items[start : start + limit]), len(items) > start + limit)


async def turn_of(
    session: AsyncSession, user_id: str, conversation_id: int, item_id: str
) -> tuple[StoredTurn, JSONObject]:
    """An item of the conversation, with its turn; raises `ConversationNotFound` and `ItemNotFound`."""
    await own_conversation(session, user_id, conversation_id)
    turn_id = turn_in(item_id, "item_id")
    is_theirs = select(Turn.id).where(
        Turn.id == turn_id, Turn.user_id == user_id, Turn.conversation_id == conversation_id
    )
    stored = {}
    if await session.scalar(is_theirs) is not None:
        stored = await turns_by_id(session, user_id, [turn_id])
    for turn in stored.values():
        for item in turn.conversation_items:
            if item["id"] == item_id:
                return turn, item
    raise ItemNotFound(item_id, "item_id")


def turn_in(item_id: str, path: str) -> int:
    """The turn that an item's id names; raises `ItemNotFound`."""
    found = STORED_ID.fullmatch(item_id)
    if found is None or int(found[1]) > MAX_ID:
        raise ItemNotFound(item_id, path)
    return int(found[1])
