"""`/v1/conversations`: conversations as OpenAI's API shows them.

https://platform.openai.com/docs/api-reference/conversations
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct

from chatapi.audit import name_subject
from chatapi.conversations import schemas
from chatapi.conversations.schemas import ConversationChanges
from chatapi.conversations.service import ConversationService
from chatapi.db.dependencies import service_dependency
from chatapi.errors.domains import ConversationNotFound
from chatapi.openai_api.errors import errors
from chatapi.openai_api.lists import After, ItemList, Limit, includes_nothing, list_of
from chatapi.openai_api.parameters import Body, Parameter, refused, supported
from chatapi.openai_api.response_body import Metadata
from chatapi.openai_api.response_objects import conversation_of
from chatapi.openai_api.response_service import ResponseService
from chatapi.openai_api.serving import MAX_BODY_BYTES, ChatConnection, KeyHeader
from chatapi.openai_api.stored_items import ItemPage
from chatapi.openapi import OPENAI_TAG
from chatapi.turns.controllers import replay_headers
from chatapi.turns.store.added import MOST

Items = Annotated[list[dict[str, Any]], Meta(max_length=MOST)]


class NewConversationBody(Body, frozen=True):
    items: Items | None = None
    metadata: Metadata | None = None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "items": supported("20 at the most, as for `POST /v1/conversations/{id}/items`."),
        "metadata": supported("16 pairs of short texts, 4 KiB as JSON."),
    }


class ConversationBody(Body, frozen=True):
    metadata: Metadata

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "metadata": supported("In the place of what was there."),
    }


class ItemsBody(Body, frozen=True):
    items: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST)]

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "include": refused("Items are always shown whole.", but=[[]]),
        "items": supported("20 at the most: messages of users and assistants, calls and their outputs."),
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

    @property
    def subject(self) -> dict[str, int]:
        return {"conversation_id": id_of(self.id)}


class ConversationsController(Controller):
    path = "/conversations"
    tags = (OPENAI_TAG,)
    dependencies = service_dependency(ConversationService, "conversations")

    @post(
        operation_id="createConversation",
        summary="Make a conversation",
        status_code=200,
        responses=errors(404, 409, 413, 415),
        request_max_body_size=MAX_BODY_BYTES,
    )
    async def create(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        data: JSONBody[NewConversationBody],
        idempotency_key: KeyHeader = None,
    ) -> ConversationObject:
        """Without items it has none yet; name it in `conversation` when you ask for a response."""
        return to_object(
            await responses.items.make_conversation(
                request.user.user_id, data.items or (), data.metadata or {}, idempotency_key or None
            )
        )

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
        deleted = DeletedConversation(id=conversation)
        name_subject(deleted)
        return deleted

    @get(
        "/{conversation:str}/items",
        operation_id="listItems",
        summary="List a conversation's items",
        responses=errors(404),
        guards=[includes_nothing],
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
            await responses.items.page(
                request.user.user_id, id_of(conversation), limit=limit, after=after, order=order
            )
        )

    @post(
        "/{conversation:str}/items",
        operation_id="addItems",
        summary="Add items to a conversation",
        status_code=200,
        responses=errors(404, 409, 413, 415),
        request_max_body_size=MAX_BODY_BYTES,
        guards=[includes_nothing],
    )
    async def add_items(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        conversation: FromPath[str],
        data: JSONBody[ItemsBody],
        idempotency_key: KeyHeader = None,
    ) -> Response[ItemList]:
        """They come behind all others, and are part of the context of later responses. No model is asked.

        A call and its output may come in two requests. While a response is under way or waits, this is 409.
        """
        made = await responses.items.add(
            request.user.user_id, id_of(conversation), data.items, idempotency_key or None
        )
        page = ItemPage(list(made.items), has_more=False)
        return Response(list_of(page), headers=replay_headers(replayed=made.replayed))

    @get(
        "/{conversation:str}/items/{item:str}",
        operation_id="retrieveItem",
        summary="Read an item",
        responses=errors(404),
        guards=[includes_nothing],
    )
    async def item(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        conversation: FromPath[str],
        item: FromPath[str],
    ) -> dict[str, Any]:
        return await responses.items.find(request.user.user_id, id_of(conversation), item)

    @delete(
        "/{conversation:str}/items/{item:str}",
        operation_id="removeItem",
        summary="Delete an item that was added",
        status_code=200,
        responses=errors(404, 409),
        act="item.deleted",
    )
    async def remove_item(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        conversation: FromPath[str],
        item: FromPath[str],
    ) -> ConversationObject:
        """A response's items go with the response: `DELETE /v1/responses/{id}`."""
        return to_object(await responses.items.remove(request.user.user_id, id_of(conversation), item))


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
