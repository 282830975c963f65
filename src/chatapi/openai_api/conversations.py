"""`/v1/conversations`: conversations as OpenAI's API shows them.

https://platform.openai.com/docs/api-reference/conversations
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Struct

from chatapi.conversations import schemas
from chatapi.conversations.schemas import ConversationChanges
from chatapi.conversations.service import ConversationService, to_schema
from chatapi.conversations.sources import make
from chatapi.db.dependencies import service_dependency
from chatapi.errors.domains import ConversationNotFound
from chatapi.openai_api.errors import errors
from chatapi.openai_api.lists import After, ItemList, Limit, list_of
from chatapi.openai_api.parameters import Body, Parameter, refused, supported
from chatapi.openai_api.response_body import Metadata
from chatapi.openai_api.response_objects import conversation_of
from chatapi.openai_api.response_service import ResponseService
from chatapi.openai_api.serving import ChatConnection
from chatapi.openapi import OPENAI_TAG


class NewConversationBody(Body, frozen=True):
    metadata: Metadata | None = None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "items": refused("Send them with the first response, in `input`.", but=[[]]),
        "metadata": supported("16 pairs of short texts, 4 KiB as JSON."),
    }


class ConversationBody(Body, frozen=True):
    metadata: Metadata

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "metadata": supported("In the place of what was there."),
    }


class ConversationObject(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, Any]


class DeletedConversation(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


class ConversationsController(Controller):
    path = "/conversations"
    tags = (OPENAI_TAG,)
    dependencies = service_dependency(ConversationService, "conversations")

    @post(
        operation_id="createConversation",
        summary="Make a conversation",
        status_code=200,
        responses=errors(413, 415),
    )
    async def create(
        self,
        request: ChatConnection,
        conversations: NamedDependency[ConversationService],
        data: JSONBody[NewConversationBody],
    ) -> ConversationObject:
        """It has no items yet; name it in `conversation` when you ask for a response."""
        made = await make(conversations.session, request.user.user_id, "v1", data.metadata or {})
        return to_object(to_schema(made))

    @get(
        "/{conversation:str}",
        operation_id="retrieveConversation",
        summary="Read a conversation",
        responses=errors(404),
    )
    async def read(
        self,
        request: ChatConnection,
        conversations: NamedDependency[ConversationService],
        conversation: FromPath[str],
    ) -> ConversationObject:
        return to_object(await conversations.read(request.user.user_id, id_of(conversation)))

    @post(
        "/{conversation:str}",
        operation_id="updateConversation",
        summary="Replace a conversation's metadata",
        status_code=200,
        responses=errors(404, 413, 415),
        act="conversation.changed",
    )
    async def update(
        self,
        request: ChatConnection,
        conversations: NamedDependency[ConversationService],
        conversation: FromPath[str],
        data: JSONBody[ConversationBody],
    ) -> ConversationObject:
        changes = ConversationChanges(metadata=data.metadata)
        return to_object(await conversations.change(request.user.user_id, id_of(conversation), changes))

    @delete(
        "/{conversation:str}",
        operation_id="removeConversation",
        summary="Delete a conversation",
        status_code=200,
        responses=errors(404),
        act="conversation.deleted",
    )
    async def remove(
        self,
        request: ChatConnection,
        conversations: NamedDependency[ConversationService],
        conversation: FromPath[str],
    ) -> DeletedConversation:
        """With all its responses; one under way is cancelled."""
        await conversations.remove(request.user.user_id, id_of(conversation))
        return DeletedConversation(id=conversation)

    @get(
        "/{conversation:str}/items",
        operation_id="listItems",
        summary="List a conversation's items",
        responses=errors(404),
    )
    async def items(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        conversation: FromPath[str],
        limit: Limit = 20,
        after: After = None,
        order: FromQuery[Literal["asc", "desc"]] = "desc",
    ) -> ItemList:
        """What was sent and what was answered; of a turn that was answered anew only the last answer."""
        return list_of(
            await responses.conversation_items(
                request.user.user_id, id_of(conversation), limit=limit, after=after, order=order
            )
        )


def id_of(conversation: str) -> int:
    """Raises `ConversationNotFound` for what cannot be the id of one."""
    conversation_id = conversation_of(conversation)
    if conversation_id is None:
        raise ConversationNotFound(conversation)
    return conversation_id


def to_object(conversation: schemas.Conversation) -> ConversationObject:
    return ConversationObject(
        id=f"conv_{conversation.id}",
        created_at=int(conversation.created_at.timestamp()),
        metadata=conversation.metadata,
    )
