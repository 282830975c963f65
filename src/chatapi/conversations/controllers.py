"""Conversations and their messages over REST."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, delete, get, patch, put
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta

from chatapi.audit import name_subject
from chatapi.conversations.deletion import delete_many
from chatapi.conversations.feedback import FeedbackService
from chatapi.conversations.forms import PLAIN, UI, Form
from chatapi.conversations.schemas import (
    Archived,
    Conversation,
    ConversationChanges,
    Deleted,
    Feedback,
    Found,
    Message,
    NewFeedback,
    Source,
    UIMessage,
)
from chatapi.conversations.search.service import SearchService
from chatapi.conversations.service import ConversationService
from chatapi.db.dependencies import service_dependency
from chatapi.db.paging import Page
from chatapi.errors.requests import Invalid
from chatapi.metrics import Metrics
from chatapi.openapi import PageCursor, PageSize, problems
from chatapi.patience import Patience

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
        archived: FromQuery[Archived] = "false",
        source: Annotated[
            Source | None, QueryParameter(description="`app`: those that were not made through OpenAI's API")
        ] = None,
    ) -> Page[Conversation]:
        """Pinned ones first, then newest activity first."""
        return await conversations.page(user_id, limit=limit, cursor=cursor, archived=archived, source=source)

    @delete(
        operation_id="deleteConversations",
        summary="Delete many conversations",
        status_code=200,
        responses=problems(422),
        act="conversations.deleted",
    )
    async def delete_conversations(
        self,
        user_id: FromPath[str],
        state: State,
        archived: Annotated[
            Literal["true"] | None, QueryParameter(description="`true`: those that are archived")
        ] = None,
        before: Annotated[
            str | None,
            QueryParameter(
                description="Those that were last active before this moment, as in 2026-11-29T12:00:00Z (RFC 3339)"
            ),
        ] = None,
    ) -> Deleted:
        """With all their messages; turns under way are cancelled. If both are given, both must hold."""
        if archived is None and before is None:
            raise Invalid(("archived", "archived=true, before or both say which conversations are deleted"))
        moment = None if before is None else moment_of(before)
        deleted = Deleted(
            deleted=await delete_many(state.database, user_id, archived=archived is not None, before=moment)
        )
        name_subject(deleted)
        return deleted

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
        operation_id="changeConversation",
        summary="Change a conversation's title, archive it, pin it, or replace its metadata",
        responses=problems(404, 413, 415, 422),
        act="conversation.changed",
    )
    async def change_conversation(
        self,
        user_id: FromPath[str],
        conversation_id: FromPath[int],
        conversations: NamedDependency[ConversationService],
        data: JSONBody[ConversationChanges],
    ) -> Conversation:
        return await conversations.change(user_id, conversation_id, data)

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
    ) -> Page[Message | UIMessage]:
        """Oldest first, or with `order=desc` newest first; with `alternatives`, also turns that were answered anew.

        What is queued comes after the newest message, on top of `limit`. With `format=ui` as messages of the AI SDK, each answer with the parts that its stream had.
        """
        shown: Form[Any] = UI if form == "ui" else PLAIN
        return await conversations.messages(
            user_id,
            conversation_id,
            shown,
            limit=limit,
            cursor=cursor,
            order=order,
            alternatives=alternatives,
        )


class SearchController(Controller):
    path = "/search"
    tags = ("Conversations",)
    dependencies = service_dependency(SearchService, "searching")

    @get(operation_id="search", summary="Search my messages", responses=problems(404, 422), limit="search")
    async def search(
        self,
        user_id: FromPath[str],
        searching: NamedDependency[SearchService],
        state: State,
        q: Annotated[
            str,
            QueryParameter(
                description='Words in any order, the last one as the beginning of a word; "phrases" in quotation marks'
            ),
        ],
        conversation_id: Annotated[
            int | None, QueryParameter(description="Only in this conversation")
        ] = None,
        limit: PageSize = 20,
        cursor: PageCursor = None,
    ) -> Page[Found]:
        """Best first. Case and accents do not matter; titles count; archived conversations are searched, too."""
        patience: Patience = state.patience
        return await searching.search(
            user_id,
            q,
            limit=limit,
            seconds=patience.search,
            cursor=cursor,
            conversation_id=conversation_id,
        )


class FeedbackController(Controller):
    path = "/messages/{message_id:int}/feedback"
    tags = ("Conversations",)
    dependencies = service_dependency(FeedbackService, "feedback")

    @put(
        operation_id="giveFeedback",
        summary="Rate an answer",
        responses=problems(404, 413, 415, 422),
        act="feedback.given",
    )
    async def give_feedback(
        self,
        user_id: FromPath[str],
        message_id: FromPath[int],
        feedback: NamedDependency[FeedbackService],
        data: JSONBody[NewFeedback],
        state: State,
    ) -> Feedback:
        """In the place of any earlier rating and comment."""
        given, is_news = await feedback.give(user_id, message_id, data)
        if is_news:
            metrics: Metrics = state.metrics
            metrics.feedback.labels(given.rating).inc()
        return given

    @delete(
        operation_id="takeFeedbackBack",
        summary="Take a rating back",
        responses=problems(404, 422),
        act="feedback.taken_back",
    )
    async def take_feedback_back(
        self,
        user_id: FromPath[str],
        message_id: FromPath[int],
        feedback: NamedDependency[FeedbackService],
    ) -> None:
        """Also where there is none."""
        await feedback.take_back(user_id, message_id)


def moment_of(text: str) -> datetime:
    """The moment in a parameter. Litestar would take 2026 for the seconds since 1970."""
    try:
        moment: datetime = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
        return moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise Invalid(("before", "is not a moment such as 2026-11-29T12:00:00Z")) from None
