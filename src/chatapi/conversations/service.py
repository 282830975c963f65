"""Lists, reads, changes and deletes conversations; `turns` adds to them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import and_, asc, delete, desc, or_, select, tuple_, update

from chatapi.agent.ports import ToolCall
from chatapi.conversations.feedback import of_message
from chatapi.conversations.metadata import check_metadata
from chatapi.conversations.schemas import (
    Archived,
    Conversation,
    ConversationChanges,
    Feedback,
    Message,
    MessageStatus,
    Rating,
    UIMessage,
)
from chatapi.conversations.search.index import index_title
from chatapi.db import models
from chatapi.db.alternatives import is_answered_or_under_way, superseded
from chatapi.db.paging import Page, decode_cursor, in_conversation, page_of
from chatapi.db.services import Service
from chatapi.errors.domains import ConversationNotFound
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


class ConversationService(Service[models.Conversation, "ConversationService.Repository"]):
    """Every method takes the owner first and raises `ConversationNotFound` for one that is not theirs."""

    class Repository(SQLAlchemyAsyncRepository[models.Conversation]):
        model_type = models.Conversation

    repository_type = Repository

    async def page(
        self, user_id: str, *, limit: int, cursor: str | None, archived: Archived = "false"
    ) -> Page[Conversation]:
        """Pinned ones first, then newest activity first.

        If both kinds are asked for, each is read along the index, and the two are merged here: one statement for both
        would sort all of the user's conversations.
        """
        before = decode_cursor(cursor, tuple[bool, datetime, int])
        kinds = (False, True) if archived == "any" else (archived == "true",)
        rows = [row for kind in kinds for row in await self._listed(user_id, kind, before, limit + 1)]
        rows.sort(key=place_in_list, reverse=True)
        return page_of(rows[: limit + 1], limit, to_schema, place_in_list)

    async def _listed(
        self,
        user_id: str,
        archived: bool,  # noqa: FBT001 - the value of a column
        before: tuple[bool, datetime, int] | None,
        limit: int,
    ) -> Sequence[models.Conversation]:
        statement = self.repository.statement.limit(limit)
        if before is not None:
            place = tuple_(models.Conversation.pinned, models.Conversation.updated_at, models.Conversation.id)
            statement = statement.where(place < before)
        return await self.get_many(
            models.Conversation.user_id == user_id,
            models.Conversation.archived == archived,
            order_by=[("pinned", True), ("updated_at", True), ("id", True)],
            statement=statement,
        )

    async def read(self, user_id: str, conversation_id: int) -> Conversation:
        conversation = await self.get_one_or_none(
            models.Conversation.id == conversation_id, models.Conversation.user_id == user_id
        )
        if conversation is None:
            raise ConversationNotFound(conversation_id)
        return to_schema(conversation)

    async def change(self, user_id: str, conversation_id: int, changes: ConversationChanges) -> Conversation:
        """A change is not activity: the conversation keeps its place among those that are pinned, or that are not."""
        columns = models.Conversation.__table__.c
        values: dict[Any, Any] = {
            columns[name]: value
            for name, value in msgspec.structs.asdict(changes).items()
            if value is not UNSET
        }
        if not values:
            return await self.read(user_id, conversation_id)
        if changes.metadata is not UNSET:
            check_metadata(changes.metadata)
        if changes.title is not UNSET:  # no title takes the place of this one
            values |= {columns.titled_at: models.now(), columns.title_due: None}
        conversation = await self.session.scalar(
            update(models.Conversation)
            .where(models.Conversation.id == conversation_id, models.Conversation.user_id == user_id)
            .values({**values, columns.updated_at: columns.updated_at})
            .returning(models.Conversation)
        )
        if conversation is None:
            raise ConversationNotFound(conversation_id)
        if changes.title is not UNSET:
            await index_title(self.session, user_id, conversation_id, changes.title)
        return to_schema(conversation)

    async def remove(self, user_id: str, conversation_id: int) -> None:
        """Delete it with its turns and messages; a turn under way finds its row gone and ends as cancelled."""
        removed = await self.session.scalar(
            delete(models.Conversation)
            .where(models.Conversation.id == conversation_id, models.Conversation.user_id == user_id)
            .returning(models.Conversation.id)
        )
        if removed is None:
            raise ConversationNotFound(conversation_id)

    async def messages(
        self,
        user_id: str,
        conversation_id: int,
        form: "Form[ItemT]",
        *,
        limit: int,
        cursor: str | None,
        order: Literal["asc", "desc"],
        alternatives: bool = False,
    ) -> Page[ItemT]:
        """A page in this form; what is queued stands where the newest messages are, on top of the page's limit."""
        queued = await self._queued(user_id, conversation_id)
        rows = await self._messages(user_id, conversation_id, limit, cursor, order, alternatives)
        page: Page[ItemT] = page_of(rows, limit, form.item, lambda row: row.id)
        if cursor if order == "desc" else page.next_cursor:  # the newest messages are on another page
            return page
        unbegun: list[ItemT] = [
            form.queued_item(*each) for each in await self._with_files(user_id, queued, rows)
        ]
        items = [*reversed(unbegun), *page.items] if order == "desc" else [*page.items, *unbegun]
        return replace(page, items=items)

    async def _queued(self, user_id: str, conversation_id: int) -> Sequence[models.QueuedTurn]:
        """What is queued in the conversation; read before its messages, so that nothing is missed that begins meanwhile."""
        conversation, row = models.Conversation, models.QueuedTurn
        found = await self.session.execute(
            select(conversation.id, row)
            .outerjoin(
                row,
                and_(
                    row.user_id == conversation.user_id,
                    row.conversation_id == conversation.id,
                    row.taken_out_at.is_(None),
                ),
            )
            .where(conversation.id == conversation_id, conversation.user_id == user_id)
            .order_by(row.id)
        )
        if not (rows := found.all()):
            raise ConversationNotFound(conversation_id)
        return [queued for _, queued in rows if queued is not None]

    async def _with_files(
        self, user_id: str, queued: Sequence[models.QueuedTurn], rows: Sequence[Row]
    ) -> list[tuple[models.QueuedTurn, list[FileRef]]]:
        """What is queued still, if these rows were read after it, with the files that it will be sent with."""
        begun = {row.turn_id for row in rows}
        left = [each for each in queued if each.id not in begun]
        ids = [file_id for each in left for file_id in files_in(each)]
        found: dict[int, FileRef] = {}
        if ids:
            files = await self.session.scalars(
                select(models.File).where(models.File.user_id == user_id, models.File.id.in_(ids))
            )
            found = {file.id: msgspec.convert(file, FileRef, from_attributes=True) for file in files}
        return [(each, [found[id_] for id_ in files_in(each) if id_ in found]) for each in left]

    async def _messages(
        self,
        user_id: str,
        conversation_id: int,
        limit: int,
        cursor: str | None,
        order: Literal["asc", "desc"],
        alternatives: bool,  # noqa: FBT001 - as in `messages`
    ) -> Sequence[Row]:
        """The rows of a page, and one more if there is another page.

        Without `alternatives`, show only one of a turn and the later turns that answer it anew.

        That is the last one that runs or has an answer, or else the first: an attempt that came to nothing is not
        shown.
        """
        message, feedback = models.Message, models.Feedback
        edge = decode_cursor(cursor, int)
        ids = {} if edge is None else {"before" if order == "desc" else "after": edge}
        turned = desc if order == "desc" else asc
        statement = (
            select(
                message.id,
                message.user_id,
                message.conversation_id,
                message.turn_id,
                message.role,
                message.content,
                message.tool_calls,
                message.parts,
                message.files,
                message.created_at,
                models.SHOWN_STATUS,
                models.Turn.alternative_of,
                models.Turn.usage,
                feedback.rating,
                feedback.comment,
                feedback.updated_at,
            )
            .join(models.Turn, models.Turn.id == message.turn_id)
            .outerjoin(feedback, of_message())
            .where(message.user_id == user_id, in_conversation(self.session, message, conversation_id, **ids))
            .order_by(turned(message.conversation_id), turned(message.id))
            .limit(limit + 1)
        )
        if not alternatives:
            statement = statement.where(
                ~superseded(is_answered_or_under_way),
                or_(models.Turn.alternative_of.is_(None), is_answered_or_under_way(models.Turn)),
            )
        return [Row._make(row) for row in await self.session.execute(statement)]


def place_in_list(conversation: models.Conversation) -> tuple[bool, datetime, int]:
    return conversation.pinned, conversation.updated_at, conversation.id


def to_schema(conversation: models.Conversation) -> Conversation:
    return Conversation(
        id=conversation.id,
        title=conversation.title,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        archived=conversation.archived,
        pinned=conversation.pinned,
        metadata=conversation.metadata_,
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
