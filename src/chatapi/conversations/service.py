"""Lists, reads, changes and deletes conversations; `turns` adds to them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from msgspec import UNSET, Meta, Struct
from msgspec.structs import asdict, replace
from sqlalchemy import (
    BindParameter,
    Integer,
    Select,
    and_,
    asc,
    bindparam,
    delete,
    desc,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import with_expression

from chatapi.conversations.deletion import let_go_of_files
from chatapi.conversations.feedback import of_message
from chatapi.conversations.forms import COLUMNS, Form, ItemT, Row, files_in
from chatapi.conversations.metadata import check_metadata
from chatapi.conversations.schemas import Archived, Conversation, ConversationChanges, Source
from chatapi.conversations.search.index import index_title
from chatapi.conversations.sources import is_from
from chatapi.conversations.summaries import summarized_until
from chatapi.db import models
from chatapi.db.alternatives import is_shown
from chatapi.db.paging import Id, Page, decode_cursor, in_conversation, page_of
from chatapi.db.services import Service, is_distributed
from chatapi.db.texts import owned_by
from chatapi.errors.domains import ConversationNotFound
from chatapi.files.schemas import FileRef


class PlaceInList(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A conversation's place in the list. The list is in the order of these columns."""

    pinned: bool
    updated_at: Annotated[datetime, Meta(tz=True)]
    id: Id

    def __post_init__(self) -> None:
        self.updated_at.astimezone(UTC)  # raises OverflowError for what is no moment in UTC


class ConversationService(Service[models.Conversation, "ConversationService.Repository"]):
    """Every method takes the owner first and raises `ConversationNotFound` for one that is not theirs."""

    class Repository(SQLAlchemyAsyncRepository[models.Conversation]):
        model_type = models.Conversation

    repository_type = Repository

    async def page(
        self,
        user_id: str,
        *,
        limit: int,
        cursor: str | None,
        archived: Archived = "false",
        source: Source | None = None,
    ) -> Page[Conversation]:
        """Pinned ones first, then newest activity first; with `source` only those that were made so.

        If both kinds are asked for, each is read along the index, and the two are merged here: one statement for both
        would sort all of the user's conversations.
        """
        before = decode_cursor(cursor, PlaceInList)
        kinds = (False, True) if archived == "any" else (archived == "true",)
        rows = [row for kind in kinds for row in await self._listed(user_id, kind, before, limit + 1, source)]
        rows.sort(key=place_in_list, reverse=True)
        return page_of(rows[: limit + 1], limit, to_schema, place_in_list)

    async def _listed(
        self,
        user_id: str,
        archived: bool,  # noqa: FBT001 - the value of a column
        before: PlaceInList | None,
        limit: int,
        source: Source | None,
    ) -> Sequence[models.Conversation]:
        place = {} if before is None else asdict(before)
        values = {"user_id": user_id, "archived": archived, "limit": limit, **place}
        return (await self.session.scalars(listing(source, goes_on=before is not None), values)).all()

    async def read(self, user_id: str, conversation_id: int) -> Conversation:
        conversation = await self.get_one_or_none(
            models.Conversation.id == conversation_id,
            models.Conversation.user_id == user_id,
            statement=with_summaries(user_id),  # type: ignore[arg-type] # the type as SQLAlchemy 2.0 has it
        )
        if conversation is None:
            raise ConversationNotFound(conversation_id)
        return to_schema(conversation)

    async def change(self, user_id: str, conversation_id: int, changes: ConversationChanges) -> Conversation:
        """A change is not activity: the conversation keeps its place among those that are pinned, or that are not."""
        columns = models.Conversation.__table__.c
        values: dict[Any, Any] = {
            columns[name]: value for name, value in asdict(changes).items() if value is not UNSET
        }
        if not values:
            return await self.read(user_id, conversation_id)
        if changes.metadata is not UNSET:
            check_metadata(changes.metadata)
        if changes.title is not UNSET:  # no title takes the place of this one
            values |= {columns.titled_at: models.now(), columns.title_due: None}
        found = await self.session.execute(
            update(models.Conversation)
            .where(models.Conversation.id == conversation_id, models.Conversation.user_id == user_id)
            .values({**values, columns.updated_at: columns.updated_at})
            .returning(models.Conversation, summarized_until(user_id))
        )
        if (row := found.one_or_none()) is None:
            raise ConversationNotFound(conversation_id)
        if changes.title is not UNSET:
            await index_title(self.session, user_id, conversation_id, changes.title)
        return replace(to_schema(row[0]), summarized_until=row[1])

    async def remove(self, user_id: str, conversation_id: int) -> None:
        """Delete it with its turns and messages; a turn under way finds its row gone and ends as cancelled."""
        mine = (models.Conversation.id == conversation_id, models.Conversation.user_id == user_id)
        if is_distributed(self.session):
            await self.session.scalar(select(models.Conversation.id).where(*mine).with_for_update())
            await let_go_of_files(self.session, user_id, models.Turn.conversation_id == conversation_id)
        removed = await self.session.scalar(
            delete(models.Conversation).where(*mine).returning(models.Conversation.id)
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
        message = models.Message
        edge = decode_cursor(cursor, Id)
        ids = {} if edge is None else {"before" if order == "desc" else "after": edge}
        turned = desc if order == "desc" else asc
        statement = (
            select(*COLUMNS)
            .join(models.Turn, models.Turn.id == message.turn_id)
            .outerjoin(models.Feedback, of_message())
            .where(
                message.user_id == user_id,
                owned_by(models.Turn.user_id, user_id),
                in_conversation(self.session, message, conversation_id, **ids),
            )
            .order_by(turned(message.conversation_id), turned(message.id))
            .limit(limit + 1)
        )
        if not alternatives:
            statement = statement.where(
                is_shown(),
            )
        return [Row._make(row) for row in await self.session.execute(statement, {"user_id": user_id})]


def with_summaries(user_id: str | BindParameter[str]) -> Select[models.Conversation]:
    return select(models.Conversation).options(
        with_expression(models.Conversation.summarized_until, summarized_until(user_id))
    )


@cache
def listing(source: Source | None, *, goes_on: bool) -> Select[models.Conversation]:
    """A part of the list; it `goes_on` after a place. It is built once, because that takes longer than to run it."""
    columns = {name: getattr(models.Conversation, name) for name in PlaceInList.__struct_fields__}
    statement = (
        with_summaries(bindparam("user_id"))
        .where(
            models.Conversation.user_id == bindparam("user_id"),
            models.Conversation.archived == bindparam("archived"),
            *is_from(source),
        )
        .order_by(*(desc(column) for column in columns.values()))
        .limit(bindparam("limit", type_=Integer()))
    )
    if not goes_on:
        return statement
    place = tuple_(*(bindparam(name, type_=column.type) for name, column in columns.items()))
    return statement.where(tuple_(*columns.values()) < place)


place_in_list = attrgetter(*PlaceInList.__struct_fields__)


def to_schema(conversation: models.Conversation) -> Conversation:
    return Conversation(
        id=conversation.id,
        title=conversation.title,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        archived=conversation.archived,
        pinned=conversation.pinned,
        metadata=conversation.metadata_,
        source=msgspec.convert(conversation.source or "app", Source),
        summarized_until=conversation.summarized_until,
    )
