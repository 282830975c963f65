"""How messages are shown: plain, or as the AI SDK's."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET

from chatapi.agent.ports import ToolCall
from chatapi.conversations.schemas import Feedback, Message, MessageStatus, Rating, UIMessage
from chatapi.db import models
from chatapi.files.schemas import FileRef, question_parts
from chatapi.parts import Part, has_waited, reasoning_of, shown

ItemT = TypeVar("ItemT", Message, UIMessage)


class Row(NamedTuple):
    """All that a message is shown from: columns of its own row, its turn's and its feedback's.

    SQLAlchemy takes twice as long to make objects of these.
    """

    id: int
    user_id: str
    conversation_id: int
    turn_id: int
    role: Literal["user", "assistant"]
    content: str
    tool_calls: list[dict[str, Any]]
    parts: list[dict[str, Any]] | None
    files: list[dict[str, Any]] | None
    created_at: datetime
    status: MessageStatus
    alternative_of: int | None
    usage: dict[str, Any] | None
    rating: Rating | None
    comment: str | None
    rated_at: datetime | None

    @property
    def outline(self) -> list[Part] | None:
        return None if self.parts is None else msgspec.convert(self.parts, list[Part])

    @property
    def feedback(self) -> Feedback | None:
        if self.rating is None or self.rated_at is None:
            return None
        return Feedback(rating=self.rating, comment=self.comment, updated_at=self.rated_at)


COLUMNS = (
    models.Message.id,
    models.Message.user_id,
    models.Message.conversation_id,
    models.Message.turn_id,
    models.Message.role,
    models.Message.content,
    models.Message.tool_calls,
    models.Message.parts,
    models.Message.files,
    models.Message.created_at,
    models.SHOWN_STATUS,
    models.Turn.alternative_of,
    models.Turn.usage,
    models.Feedback.rating,
    models.Feedback.comment,
    models.Feedback.updated_at,
)


def to_queued_message(queued: models.QueuedTurn, files: list[FileRef]) -> Message:
    return Message(
        id=None,
        turn_id=queued.id,
        role="user",
        content=message_in(queued),
        reasoning=None,
        tool_calls=[],
        files=files,
        status="queued",
        created_at=queued.created_at,
    )


def to_queued_ui_message(queued: models.QueuedTurn, files: list[FileRef]) -> UIMessage:
    return UIMessage(
        id=f"question_{queued.id}",
        role="user",
        parts=question_parts(queued.user_id, message_in(queued), files),
        metadata={
            "conversation_id": queued.conversation_id,
            "turn_id": queued.id,
            "status": "queued",
        },
    )


def message_in(queued: models.QueuedTurn) -> str:
    return str((queued.request or {})["message"])


def files_in(queued: models.QueuedTurn) -> list[int]:
    return list((queued.request or {}).get("files", ()))


def to_message(row: Row) -> Message:
    return Message(
        id=row.id,
        turn_id=row.turn_id,
        role=row.role,
        content=row.content,
        reasoning=reasoning_of(row.outline),
        tool_calls=msgspec.convert(row.tool_calls, list[ToolCall]),
        files=msgspec.convert(row.files or [], list[FileRef]),
        status=row.status,
        created_at=row.created_at,
        alternative_of=UNSET if row.alternative_of is None else row.alternative_of,
        feedback=row.feedback or UNSET,
    )


def to_ui_message(row: Row) -> UIMessage:
    """The message as its stream made it; once it was rated, its metadata has the rating, too."""
    if row.role == "user":
        files = msgspec.convert(row.files or [], list[FileRef])
        parts = question_parts(row.user_id, row.content, files)
        status = {} if row.status == "completed" else {"status": row.status}
        return UIMessage(
            id=f"question_{row.turn_id}", role="user", parts=parts, metadata={**ids_of(row), **status}
        )
    outline = row.outline
    calls = msgspec.convert(row.tool_calls, list[ToolCall])
    return UIMessage(
        id=f"turn_{row.turn_id}",
        role="assistant",
        parts=shown(outline, row.content, calls),
        metadata=metadata_of(row, has_waited=has_waited(outline)),
    )


def metadata_of(row: Row, *, has_waited: bool) -> dict[str, Any]:
    """The metadata that the stream gave piece by piece."""
    metadata: dict[str, Any] = ids_of(row)
    if (feedback := row.feedback) is not None:
        metadata["feedback"] = feedback
    if row.status == "waiting":
        return {**metadata, "waiting": True}
    if has_waited:
        metadata["waiting"] = False
    if row.status != "completed":
        return {**metadata, "status": row.status}
    metadata["message_id"] = row.id
    return metadata if row.usage is None else {**metadata, "usage": row.usage}


def ids_of(row: Row) -> dict[str, Any]:
    return {"conversation_id": row.conversation_id, "turn_id": row.turn_id}


class Form(NamedTuple, Generic[ItemT]):
    """How messages are shown."""

    item: Callable[[Row], ItemT]
    queued_item: Callable[[models.QueuedTurn, list[FileRef]], ItemT]


PLAIN = Form(to_message, to_queued_message)
UI = Form(to_ui_message, to_queued_ui_message)  # the AI SDK's
