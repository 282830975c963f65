"""The tools that search and read a user's conversations: for the user's own MCP clients, and for the offline assistant."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.tools import Tool
from chatapi.conversations.forms import PLAIN
from chatapi.conversations.schemas import Conversation, Found, Message
from chatapi.conversations.search.folding import MAX_QUERY
from chatapi.conversations.search.service import SearchService
from chatapi.conversations.search.snippets import END, START
from chatapi.conversations.service import ConversationService
from chatapi.db.paging import MAX_ID, Page
from chatapi.patience import Patience

FOUND = 20  # results of a search
PAGE = 100  # messages of a conversation; the bound of a REST page
MARKS = str.maketrans("", "", START + END)  # which mean nothing to a model

Cursor = Annotated[str | None, Meta(description="next_cursor of the page before")]


class Search(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY)]
    conversation_id: Annotated[int, Meta(ge=1, le=MAX_ID, description="Only in this one")] | None = None
    cursor: Cursor = None


class Read(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    conversation_id: Annotated[
        int, Meta(ge=1, le=MAX_ID, description="The id of a conversation, as search_conversations gives it")
    ]
    cursor: Cursor = None


class ConversationContents(Conversation, frozen=True, kw_only=True):
    """`messages` are the newest, oldest first; `next_cursor` gives those before them."""

    messages: Sequence[Message]
    next_cursor: str | None


async def search(session: AsyncSession, user_id: str, call: Search) -> Page[Found]:
    page = await SearchService(session).search(
        user_id,
        call.query,
        limit=FOUND,
        seconds=Patience().search,
        cursor=call.cursor,
        conversation_id=call.conversation_id,
    )
    items = [msgspec.structs.replace(each, snippet=each.snippet.translate(MARKS)) for each in page.items]
    return Page(items=items, next_cursor=page.next_cursor)


async def read(session: AsyncSession, user_id: str, call: Read) -> ConversationContents:
    conversations = ConversationService(session)
    conversation = await conversations.read(user_id, call.conversation_id)
    page = await conversations.messages(
        user_id, call.conversation_id, PLAIN, limit=PAGE, cursor=call.cursor, order="desc"
    )
    return ConversationContents(
        **msgspec.structs.asdict(conversation), messages=page.items[::-1], next_cursor=page.next_cursor
    )


SEARCH_CONVERSATIONS = Tool(
    name="search_conversations",
    title="Search conversations",
    description="Search what was said in the user's conversations: words in any order, the last one as the beginning "
    f'of a word, "phrases" in quotation marks. Best first, {FOUND} to a page.',
    arguments=Search,
    result=Page[Found],
    run=search,
    read_only=True,
    idempotent=True,
    limit="search",
)
READ_CONVERSATION = Tool(
    name="read_conversation",
    title="Read a conversation",
    description=f"One of the user's conversations with its newest {PAGE} messages, oldest first; "
    "next_cursor leads to those before them.",
    arguments=Read,
    result=ConversationContents,
    run=read,
    read_only=True,
    idempotent=True,
)
CONVERSATION_TOOLS: tuple[Tool[Any], ...] = (SEARCH_CONVERSATIONS, READ_CONVERSATION)
