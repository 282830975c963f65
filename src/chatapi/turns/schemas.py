"""The requests that begin a turn, and its answer."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from chatapi.agent.ports import FinishReason, ToolCall, Usage
from chatapi.text import NOT_BLANK

MessageText = Annotated[
    str, Meta(min_length=1, max_length=10_000, pattern=NOT_BLANK, examples=["Add milk and bread to my list"])
]


# 19 digits hold every id; text of thousands of digits is not read as a number.
DIGITS = r"^[0-9]{1,19}$"
# Litestar describes a union without its members' constraints, so repeat the pattern for the whole union.
ConversationId = Annotated[
    int | Annotated[str, Meta(pattern=DIGITS)] | None,
    Meta(examples=[1], extra_json_schema={"extra": {"pattern": DIGITS}}),
]


class ChatRequest(Struct, frozen=True, kw_only=True):
    """The parsed content of a `MessageRequest`."""

    message: MessageText
    conversation_id: int | None = None


class MessageRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message, and the conversation that it continues; without one, or with null, a new one begins.

    `conversation_id` may be text: a page has it from its own address.
    """

    message: MessageText
    conversation_id: ConversationId = None

    @property
    def request(self) -> ChatRequest:
        """The same request whether its id came as a number or as text."""
        conversation_id = None if self.conversation_id is None else int(self.conversation_id)
        return ChatRequest(message=self.message, conversation_id=conversation_id)


class RegenerateRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The edited message to answer instead of the turn's own, if it was edited."""

    message: MessageText | None = None


class AnswerAnew(Struct, frozen=True, kw_only=True, tag=True):
    """A turn to answer anew, and the edited message, if it was edited."""

    turn_id: int
    message: str | None


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """The answer to a message. `message_id` is the stored answer's; `usage` is there when the model tells it.

    `finish_reason` is there when the answer did not end by itself: `length` when the model's limit cut it off.
    """

    conversation_id: int
    response: Annotated[str, Meta(examples=['Added "milk" and "bread".'])]
    tool_calls: list[ToolCall]
    message_id: int
    turn_id: int
    usage: Usage | UnsetType = UNSET
    finish_reason: FinishReason | UnsetType = UNSET
