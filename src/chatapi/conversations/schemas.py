"""Conversations and messages as callers see them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from chatapi.agent.ports import ToolCall
from chatapi.files.schemas import FileRef
from chatapi.text import NO_NUL, NOT_BLANK

ConversationTitle = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=NOT_BLANK, examples=["Shopping"])
]
Archived = Literal["false", "true", "any"]
Source = Literal["app", "v1"]
Rating = Literal["up", "down"]
FeedbackComment = Annotated[str, Meta(max_length=2_000, pattern=NO_NUL, examples=["Just what I needed"])]
MessageStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]


class Conversation(Struct, frozen=True, kw_only=True):
    """`source` says how it was made: by these routes, `app`, or through OpenAI's API, `v1`.

    `summarized_until` is the last turn that models are shown summed up, with those before it; null if there is none.
    """

    id: int
    title: str | None
    created_at: datetime
    updated_at: datetime
    archived: bool
    pinned: bool
    metadata: dict[str, Any]
    source: Source
    summarized_until: int | None


class ConversationChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The changes to a conversation; a member that is left out stays as it is.

    A title of null takes it away. `metadata` is the client's own, at most 4 KiB as JSON, and replaced as a whole.
    """

    title: ConversationTitle | UnsetType | None = UNSET
    archived: bool | UnsetType = UNSET
    pinned: bool | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class Deleted(Struct, frozen=True, kw_only=True):
    """How many conversations were deleted."""

    deleted: int

    @property
    def subject(self) -> dict[str, int]:
        return {"deleted": self.deleted}


class Found(Struct, frozen=True, kw_only=True):
    """A message that was found, by its text or by its conversation's title.

    `snippet` is plain text, with each hit between U+E000 and U+E001.
    """

    conversation_id: int
    title: str | None
    message_id: int
    turn_id: int
    role: Literal["user", "assistant"]
    snippet: str
    created_at: datetime


class NewFeedback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rating of an answer, in the place of any earlier one with its comment."""

    rating: Rating
    comment: FeedbackComment | None = None


class Feedback(Struct, frozen=True, kw_only=True):
    rating: Rating
    comment: str | None
    updated_at: datetime


class Message(Struct, frozen=True, kw_only=True):
    """`status` is that of the message's turn; `alternative_of`, if there, the turn that this one answers anew.

    `reasoning` is what the model thought on its way to the answer. `feedback` is there once its user has rated it.
    `files` are those that a user's message was sent with. A message that is queued has no id yet: it gets one, and its
    place, when its turn begins.
    """

    id: int | None
    turn_id: int
    role: Literal["user", "assistant"]
    content: str
    reasoning: str | None
    tool_calls: list[ToolCall]
    files: list[FileRef]
    status: MessageStatus
    created_at: datetime
    alternative_of: int | UnsetType = UNSET
    feedback: Feedback | UnsetType = UNSET


class UIMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the AI SDK (https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message), as its stream made it.

    An answer's id is `turn_{turn_id}`, as in the stream, and its question's is `question_{turn_id}`.
    """

    id: str
    role: Literal["user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: dict[str, Any] = {}
