"""The requests that begin a turn, and its answer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from chatapi.agent.ports import NO_OPTIONS, Asking, FinishReason, HistoryMessage, Options, ToolCall
from chatapi.db.paging import MAX_ID
from chatapi.errors.requests import Invalid
from chatapi.text import NOT_BLANK
from chatapi.usage.schemas import TurnUsage

MAX_CHARACTERS = 10_000
MAX_PARTS = 100  # bounds the work of one request; FILES_PER_MESSAGE bounds its files
MessageText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CHARACTERS,
        pattern=NOT_BLANK,
        examples=["Add milk and bread to my list"],
    ),
]


# 19 digits hold every id; text of thousands of digits is not read as a number.
DIGITS = r"^[0-9]{1,19}$"
# Litestar describes a union without its members' constraints, so repeat the pattern for the whole union.
ConversationId = Annotated[
    int | Annotated[str, Meta(pattern=DIGITS)] | None,
    Meta(examples=[1], extra_json_schema={"extra": {"pattern": DIGITS}}),
]


class ClientTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the caller carries out itself; `parameters` is a JSON Schema (2020-12) of an object."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["time_zone"])]
    description: Annotated[str, Meta(max_length=1_024)] = ""
    parameters: dict[str, Any]


WhenBusy: TypeAlias = Literal["reject", "queue", "interrupt"]
ClientTools: TypeAlias = Annotated[list[ClientTool], Meta(max_length=128)]


class Terms(Struct, frozen=True, kw_only=True):
    """What the caller of a turn says of how it is run.

    `approvals`: there is somebody to ask for one. `own_tools` names those of the service's tools that the model is told of;
    None is all.
    """

    client_tools: Sequence[ClientTool] = ()
    options: Options = NO_OPTIONS
    approvals: bool = True
    own_tools: Sequence[str] | None = None


class Asked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored with a turn of the request that it answers: what holds for the model, and what is `shown` of it again."""

    options: Options = NO_OPTIONS
    approvals: bool = True
    own_tools: Sequence[str] | None = None
    shown: dict[str, Any] = {}

    def terms(self, client_tools: Sequence[ClientTool]) -> Terms:
        return Terms(
            client_tools=client_tools,
            options=self.options,
            approvals=self.approvals,
            own_tools=self.own_tools,
        )


class ChatRequest(Struct, frozen=True, kw_only=True):
    """The parsed content of a `MessageRequest`; `files` are the ids of its files.

    Without files it is encoded as the versions before files did, so that a key means the same to them.
    """

    message: str
    conversation_id: int | None = None
    files: Sequence[int] | UnsetType = UNSET
    client_tools: Sequence[ClientTool] | UnsetType = (
        UNSET  # unset, so that keys of the version before still hold
    )

    when_busy: Literal["queue", "interrupt"] | UnsetType = UNSET  # unset is `reject`, for the same reason
    # These come through OpenAI's API alone. `before` are the messages that the caller has sent before this one, and `shown`
    # is what a response repeats of its request. `after` is the turn that the conversation must not have gone on from, and
    # `fingerprint` tells the request apart from others with its key.
    options: Options | UnsetType = UNSET
    approvals: Literal[False] | UnsetType = UNSET
    own_tools: Sequence[str] | UnsetType = UNSET
    before: Sequence[HistoryMessage] | UnsetType = UNSET
    shown: dict[str, Any] | UnsetType = UNSET
    source: Literal["v1"] | UnsetType = UNSET
    after: int | UnsetType = UNSET
    fingerprint: str | UnsetType = UNSET

    @property
    def terms(self) -> Terms:
        return Terms(
            client_tools=self.client_tools or (),
            options=self.options or NO_OPTIONS,
            approvals=self.approvals is UNSET,
            own_tools=None if self.own_tools is UNSET else self.own_tools,
        )

    @property
    def asked(self) -> Asked | None:
        """What is stored of the request, if it says more than a message through our own routes."""
        if (
            self.options is UNSET
            and self.approvals is UNSET
            and self.own_tools is UNSET
            and self.shown is UNSET
        ):
            return None
        terms = self.terms
        return Asked(
            options=terms.options,
            approvals=terms.approvals,
            own_tools=terms.own_tools,
            shown=self.shown or {},
        )


class TextPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A text of a message; several are its paragraphs."""

    text: MessageText


class FilePart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="file"):
    """A file of a message, by the id that its upload gave."""

    file_id: Annotated[int, Meta(ge=1, le=MAX_ID)]


Parts = Annotated[list[TextPart | FilePart], Meta(min_length=1, max_length=MAX_PARTS)]


class MessageRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message, and the conversation that it continues; without one, or with null, a new one begins.

    Either `message` or `parts` is there; a text alone may come as either. `conversation_id` may be text: a page has it
    from its own address. `when_busy` says what becomes of the message while the conversation has a turn under way: it is
    refused, begins after that, or ends it and begins.
    """

    message: MessageText | UnsetType = UNSET
    parts: Parts | UnsetType = UNSET
    conversation_id: ConversationId = None
    client_tools: ClientTools = []
    when_busy: WhenBusy = "reject"

    @property
    def request(self) -> ChatRequest:
        """The same request whether its id came as a number or as text; raises `Invalid`."""
        if self.message is UNSET and self.parts is UNSET:
            raise Invalid(("", "Object missing required field `message`, or `parts` in its place"))
        message, files = text_and_files(self.message, self.parts)
        conversation_id = None if self.conversation_id is None else int(self.conversation_id)
        return ChatRequest(
            message=message,
            conversation_id=conversation_id,
            client_tools=self.client_tools or UNSET,
            files=files,
            when_busy=UNSET if self.when_busy == "reject" else self.when_busy,
        )


class RegenerateRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The edited message, as `message` or `parts`, to answer instead of the turn's own, if it was edited."""

    message: MessageText | None = None
    parts: Parts | UnsetType = UNSET
    client_tools: ClientTools = []

    def request(self, turn_id: int) -> "AnswerAnew":
        """Raises `Invalid`."""
        message = self.message
        files: Sequence[int] | UnsetType = UNSET
        if message is not None or self.parts is not UNSET:
            message, files = text_and_files(UNSET if message is None else message, self.parts)
        return AnswerAnew(
            turn_id=turn_id, message=message, client_tools=self.client_tools or UNSET, files=files
        )


class AnswerAnew(Struct, frozen=True, kw_only=True, tag=True):
    """A turn to answer anew, and the edited message with the ids of its files, if it was edited."""

    turn_id: int
    message: str | None
    files: Sequence[int] | UnsetType = UNSET
    client_tools: Sequence[ClientTool] | UnsetType = UNSET

    @property
    def terms(self) -> Terms:
        return Terms(client_tools=self.client_tools or ())


def text_and_files(
    message: str | UnsetType, parts: Sequence[TextPart | FilePart] | UnsetType
) -> tuple[str, Sequence[int] | UnsetType]:
    """The text of a message and the ids of its files; raises `Invalid`."""
    if parts is UNSET:
        return message or "", UNSET
    if message is not UNSET:
        raise Invalid(("parts", "is there beside `message`; send one of them"))
    text = "\n\n".join(part.text for part in parts if isinstance(part, TextPart))
    if len(text) > MAX_CHARACTERS:
        raise Invalid(("parts", f"has more than {MAX_CHARACTERS:,} characters of text"))
    files = [part.file_id for part in parts if isinstance(part, FilePart)]
    if len(set(files)) < len(files):
        raise Invalid(("parts", "names a file twice"))
    return text, files or UNSET


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """The answer to a message. `message_id` is the stored answer's; `usage` is there when the model tells it.

    `finish_reason` is there when the answer did not end by itself: `length` when the model's limit cut it off.
    """

    conversation_id: int
    response: Annotated[str, Meta(examples=['Added "milk" and "bread".'])]
    tool_calls: list[ToolCall]
    message_id: int
    turn_id: int
    usage: TurnUsage | UnsetType = UNSET
    finish_reason: FinishReason | UnsetType = UNSET


class Pending(Struct, frozen=True, kw_only=True):
    """A call that waits for an answer: for its user's approval, or for the caller that carries it out."""

    id: str
    kind: Asking
    tool_call_id: str
    name: str
    arguments: dict[str, Any]


class PendingUntil(Pending, frozen=True, kw_only=True):
    expires_at: datetime


class WaitingAnswer(Struct, frozen=True, kw_only=True):
    """A turn that waits: what it has said and done so far, and the calls that are still to be answered.

    `usage` is there when the model tells it.
    """

    conversation_id: int
    turn_id: int
    status: Literal["waiting"] = "waiting"
    response: str
    tool_calls: list[ToolCall]
    pending: list[PendingUntil]
    usage: TurnUsage | UnsetType = UNSET


class WaitingTurn(Struct, frozen=True, kw_only=True):
    """A turn that waits, as it is listed."""

    conversation_id: int
    turn_id: int
    status: Literal["waiting"] = "waiting"
    pending: list[PendingUntil]
    created_at: datetime


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to a pending call: `approved` for an approval; for a client tool its `output` (JSON), or an `error`."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    approved: bool | UnsetType = UNSET
    reason: Annotated[str, Meta(max_length=1_000)] | UnsetType | None = UNSET
    output: Any | UnsetType = UNSET
    error: Annotated[str, Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET


class AnswersRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers to pending calls of a turn. The turn goes on when all have one."""

    answers: Annotated[list[Answer], Meta(min_length=1, max_length=128)]


class AnswersOnTerms(AnswersRequest, frozen=True, kw_only=True):
    """Answers through OpenAI's API, and the terms on which the turn goes on: these are the ones of this request."""

    asked: Asked
    client_tools: Sequence[ClientTool] = ()


class Compaction(Struct, frozen=True, kw_only=True):
    """A summary that is being made: it will cover the turns up to `turn_id`.

    `summarized_until` is the last turn that the newest one covers, which is there already.
    """

    turn_id: int
    summarized_until: int | None
