"""Conversations and their messages over REST."""

from typing import Annotated, Literal

from litestar import Controller, delete, get, patch
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from chatapi.conversations.schemas import Conversation, ConversationChanges, Message, UIMessage
from chatapi.conversations.service import ConversationService
from chatapi.db.dependencies import service_dependency
from chatapi.db.paging import Page
from chatapi.openapi import PageCursor, PageSize, problems

MessageForm = Annotated[Literal["plain", "ui"], QueryParameter(name="format")]


class ConversationController(Controller):
    path = "/conversations"
    tags = ("Conversations",)
    dependencies = service_dependency(ConversationService, "conversations")

    @get(operation_id="listConversations", summary="List conversations", responses=problems(422))
    async def list_conversations(
        self,
        user_id: FromPath[str],
        conversations: NamedDependency[ConversationService],
        limit: PageSize = 20,
        cursor: PageCursor = None,
    ) -> Page[Conversation]:
        """Newest activity first."""
        return await conversations.page(user_id, limit=limit, cursor=cursor)

    @get(
        "/{conversation_id:int}",
        operation_id="readConversation",
        summary="Read a conversation",
        responses=problems(404),
    )
    async def read_conversation(
        self,
        user_id: FromPath[str],
        conversation_id: FromPath[int],
        conversations: NamedDependency[ConversationService],
    ) -> Conversation:
        return await conversations.read(user_id, conversation_id)

    @patch(
        "/{conversation_id:int}",
        operation_id="renameConversation",
        summary="Rename a conversation",
        responses=problems(404, 413, 415, 422),
        act="conversation.renamed",
    )
    async def rename_conversation(
        self,
        user_id: FromPath[str],
        conversation_id: FromPath[int],
        conversations: NamedDependency[ConversationService],
        data: JSONBody[ConversationChanges],
    ) -> Conversation:
        return await conversations.rename(user_id, conversation_id, data)

    @delete(
        "/{conversation_id:int}",
        operation_id="deleteConversation",
        summary="Delete a conversation",
        responses=problems(404),
        act="conversation.deleted",
    )
    async def delete_conversation(
        self,
        user_id: FromPath[str],
        conversation_id: FromPath[int],
        conversations: NamedDependency[ConversationService],
    ) -> None:
        """With all its messages; a turn under way is cancelled."""
        await conversations.remove(user_id, conversation_id)

    @get(
        "/{conversation_id:int}/messages",
        operation_id="listMessages",
        summary="List a conversation's messages",
        responses=problems(404, 422),
    )
    async def list_messages(
        self,
        user_id: FromPath[str],
        conversation_id: FromPath[int],
        conversations: NamedDependency[ConversationService],
        limit: PageSize = 50,
        cursor: PageCursor = None,
        order: FromQuery[Literal["asc", "desc"]] = "asc",
        alternatives: FromQuery[bool] = False,  # noqa: FBT002 - Litestar passes it by name
        form: MessageForm = "plain",
    ) -> Page[Message] | Page[UIMessage]:
        """Oldest first, or with `order=desc` newest first; with `alternatives`, also turns that were answered anew.

        With `format=ui` as messages of the AI SDK, each answer with the parts that its stream had.
        """
        read = conversations.ui_messages if form == "ui" else conversations.messages
        return await read(
            user_id, conversation_id, limit=limit, cursor=cursor, order=order, alternatives=alternatives
        )
