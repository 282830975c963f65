"""The items of conversations: read, found by their ids, added without a run, and deleted."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from msgspec.structs import asdict, replace
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File, FileSource, ToolCall
from chatapi.conversations.schemas import Conversation
from chatapi.conversations.service import ConversationService
from chatapi.conversations.sources import make
from chatapi.db.database import Database
from chatapi.errors.openai_api import ItemInUse, ItemNotFound, UnsupportedParameter
from chatapi.errors.requests import Invalid
from chatapi.openai_api.context import Entry, Outcome, Spoken, no_call
from chatapi.openai_api.items import JSONObject, turn_of_item
from chatapi.openai_api.request_files import RequestFiles
from chatapi.openai_api.response_input import Given, InputEntry, Reference, entries_of, entries_of_item
from chatapi.openai_api.stored_items import (
    ItemPage,
    Order,
    StoredTurn,
    conversation_page,
    turn_of,
    turns_by_id,
)
from chatapi.turns.store import added
from chatapi.turns.store.added import Added, AddedMessage
from chatapi.turns.store.rows import Key


class AddedItems(NamedTuple):
    """What was added; `replayed`: by an earlier request with the same key."""

    conversation_id: int
    items: Sequence[JSONObject]
    replayed: bool = False


class ItemService:
    """Every method takes the owner first. Raises `ConversationNotFound` for a conversation that is not theirs."""

    def __init__(self, database: Database, files: RequestFiles, hold: Callable[[bytes], FileSource]) -> None:
        self._database = database
        self._files = files
        self._hold = hold

    async def read(self, user_id: str, items: str | Sequence[JSONObject], param: str) -> list[Entry | Given]:
        """What the items of this parameter say, with what stands in the place of references.

        Raises `Invalid`, `UnsupportedParameter` and `ItemNotFound`, with the path of what is wrong.
        """
        return await self._resolved(user_id, list(entries_of(items, self._hold, param)))

    async def turns(self, user_id: str, turn_ids: Sequence[int]) -> dict[int, StoredTurn]:
        if not turn_ids:
            return {}
        return await self._database.read(user_id, lambda session: turns_by_id(session, user_id, turn_ids))

    async def page(
        self, user_id: str, conversation_id: int, *, limit: int, after: str | None, order: Order
    ) -> ItemPage:
        return await self._database.read(
            user_id,
            lambda session: conversation_page(
                session, user_id, conversation_id, limit=limit, after=after, order=order
            ),
        )

    async def find(self, user_id: str, conversation_id: int, item_id: str) -> JSONObject:
        """The item; raises `ItemNotFound`."""
        _, item = await self._database.read(
            user_id, lambda session: turn_of(session, user_id, conversation_id, item_id)
        )
        return item

    async def add(
        self, user_id: str, conversation_id: int, items: Sequence[JSONObject], key: str | None
    ) -> AddedItems:
        """Add items behind all others, or find those that the key has added.

        Raises what `read` and `turns.store.added.add` raise.
        """
        return await self._added(user_id, items, key_of(key, [conversation_id, items]), conversation_id)

    async def make_conversation(
        self, user_id: str, items: Sequence[JSONObject], metadata: dict[str, Any], key: str | None
    ) -> Conversation:
        """A new conversation with these items, or the one that the key has made with items."""
        made = await self._added(user_id, items, key_of(key, [metadata, items]), None, metadata)
        return await self._database.read(
            user_id, lambda session: read(session, user_id, made.conversation_id)
        )

    async def remove(self, user_id: str, conversation_id: int, item_id: str) -> Conversation:
        """Delete an item that was added, and return its conversation.

        Raises `ItemNotFound`, and `ItemInUse` for an item that was not added or is needed.
        """

        async def work(session: AsyncSession) -> Conversation:
            turn, item = await turn_of(session, user_id, conversation_id, item_id)
            if not turn.was_added:
                raise ItemInUse(
                    item_id, f"is a response's; delete that one, resp_{turn.turn_id}, as a whole."
                )
            if item["type"] == "function_call":
                calls = await added.open_calls(session, user_id, conversation_id)
                if item["call_id"] not in calls:
                    raise ItemInUse(item_id, "is a call whose output is there; delete that first.")
            role = item.get("role", "assistant")
            await added.remove(session, user_id, conversation_id, turn.turn_id, role)
            return await read(session, user_id, conversation_id)

        return await self._database.run(user_id, work)

    async def _added(
        self,
        user_id: str,
        items: Sequence[JSONObject],
        key: Key | None,
        conversation_id: int | None,
        metadata: dict[str, Any] | None = None,
    ) -> AddedItems:
        """Add to this conversation, or to a new one with this metadata."""
        entries = await self._with_files(user_id, await self.read(user_id, items, "items"))
        batch = uuid4().hex

        async def work(session: AsyncSession) -> AddedItems:
            made = await added.added_before(session, user_id, key)
            if made is None:
                place, calls = conversation_id, {}
                if place is None:
                    place = (await make(session, user_id, "v1", metadata or {})).id
                elif any(isinstance(entry, Outcome) for entry in entries):
                    calls = await added.open_calls(session, user_id, place)
                messages = messages_of(entries, calls)
                if not messages:
                    return AddedItems(place, [])
                made = await added.add(session, user_id, place, messages, key, batch)
            return await told(session, made)

        async def told(session: AsyncSession, made: Added) -> AddedItems:
            stored = await turns_by_id(session, user_id, made.turn_ids)
            bodies = [item for turn_id in made.turn_ids for item in stored[turn_id].conversation_items]
            return AddedItems(made.conversation_id, bodies, made.replayed)

        async def written(session: AsyncSession) -> AddedItems | None:
            found = await added.find(session, user_id, batch)
            return None if found is None else await told(session, found)

        return await self._database.run(user_id, work, written)

    async def _with_files(self, user_id: str, entries: Sequence[Entry | Given]) -> list[Entry | Given]:
        """The entries, with the files that they send stored."""
        files = [file for each in entries if isinstance(each, Spoken) for file in each.files]
        found, _ = await self._files.resolved(user_id, files, (), store=True)
        ids = iter(found)
        return [
            replace(each, files=[next(ids) for _ in each.files]) if isinstance(each, Spoken) else each
            for each in entries
        ]

    async def _resolved(self, user_id: str, entries: Sequence[InputEntry]) -> list[Entry | Given]:
        """The entries, with what stands in the place of references; raises `ItemNotFound`."""
        places = {each: turn_of_item(each.id) for each in entries if isinstance(each, Reference)}
        stored = await self.turns(user_id, [place[0] for place in places.values() if place is not None])
        resolved: list[Entry | Given] = []
        for each in entries:
            if not isinstance(each, Reference):
                resolved.append(each)
                continue
            place = places[each]
            turn = None if place is None else stored.get(place[0])
            if place is None or turn is None or place[1] > len(turn.items):
                raise ItemNotFound(each.id, each.path)
            if place[1] == 0:
                if turn.question is None:
                    raise ItemNotFound(each.id, each.path)
                resolved.append(Spoken(path=each.path, role="user", text=turn.question, files=files_of(turn)))
                continue
            item = turn.items[place[1] - 1]
            if item.id != each.id:
                raise ItemNotFound(each.id, each.path)
            resolved += entries_of_item(item, each.path)
        return resolved


def messages_of(entries: Sequence[Entry | Given], asked: Mapping[str, ToolCall]) -> list[AddedMessage]:
    """The messages to add: one for each item, but for answers to approvals, which change nothing any more.

    `asked` are calls that were added before and have no outcome. Raises `Invalid` and `UnsupportedParameter`.
    """
    calls = dict(asked)
    messages: list[AddedMessage] = []
    for place, entry in enumerate(entries):
        match entry:
            case Spoken(calls=[]) | Spoken(calls=()):
                messages.append(spoken(entry))
            case Spoken():
                for call in entry.calls:
                    if call.id in calls:
                        raise Invalid((f"{entry.path}.call_id", f"The call {call.id!r} is there already."))
                    calls[call.id] = call
                    messages.append(AddedMessage(role="assistant", asked=call))
            case Outcome():
                if (waiting := calls.pop(entry.call_id, None)) is None:
                    raise no_call(entry)
                done = replace(waiting, result=entry.output)
                # A call of ours has its outcome in the same item.
                is_own = place > 0 and entries[place - 1].path == entry.path
                if is_own:
                    messages.pop()
                messages.append(AddedMessage(role="assistant", calls=[done], is_callers=not is_own))
    return messages


def spoken(said: Spoken) -> AddedMessage:
    """The message of somebody who says something."""
    if said.role == "user":
        files = [file.id for file in said.files]
        return AddedMessage(role="user", content=said.text, files=files)
    if said.role != "assistant":
        reason = "A conversation has no messages of the system; send it as `instructions` of each response."
        raise UnsupportedParameter(f"{said.path}.role", reason)
    if not said.text.strip():
        raise Invalid((f"{said.path}.content", "must not be blank"))
    return AddedMessage(role="assistant", content=said.text)


async def read(session: AsyncSession, user_id: str, conversation_id: int) -> Conversation:
    return await ConversationService(session).read(user_id, conversation_id)


def files_of(turn: StoredTurn) -> list[File]:
    return [File(**asdict(file)) for file in turn.files]


def key_of(key: str | None, request: Any) -> Key | None:
    return (
        None if key is None else Key(value=key, request_hash=sha256(msgspec.json.encode(request)).hexdigest())
    )
