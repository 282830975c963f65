"""Keyset paging: a page costs the same wherever it starts, and inserts do not shift it."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta
from sqlalchemy import ColumnElement, and_, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.models import Message, Turn
from chatapi.errors.requests import Invalid

T = TypeVar("T")
RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")

MAX_ID = 2**63 - 1  # what a BIGINT holds; no larger id can exist

Id = Annotated[int, Meta(ge=0, le=MAX_ID)]  # in a cursor


class Page(msgspec.Struct, Generic[T], frozen=True):
    """`next_cursor` is null on the last page; pass it back as `cursor` for the page after this one."""

    items: list[T]
    next_cursor: str | None


def in_conversation(
    session: AsyncSession,
    row: type[Message | Turn],
    conversation_id: int | ColumnElement[int],
    *,
    after: int = 0,
    before: int = MAX_ID,
) -> ColumnElement[bool]:
    """The conversation's rows with ids between these, to be ordered by conversation and id.

    With `conversation_id = …` PostgreSQL's plan for all conversations may walk the primary key, along everybody's
    messages: that is fine for a large conversation, and reads 100,000 messages for a small one. Only the index of
    conversations gives a range of pairs. SQLite has no such plan, and does not see that the pairs are in its index.
    """
    if session.get_bind().dialect.name == "sqlite":
        return and_(row.conversation_id == conversation_id, row.id > after, row.id < before)
    place = tuple_(row.conversation_id, row.id)
    return and_(place > tuple_(conversation_id, after), place < tuple_(conversation_id, before))


def decode_cursor(cursor: str | None, key_type: type[KeyT]) -> KeyT | None:
    """The sort key in a cursor made by `page_of`; raises `Invalid` for one that is not ours.

    The type refuses what no column can hold: `Id` is one for ids.
    """
    if cursor is None:
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(cursor.encode("ascii")), type=key_type)
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise Invalid(("cursor", "is not a cursor of this list")) from error


def page_of(
    rows: Sequence[RowT], limit: int, to_item: Callable[[RowT], T], to_key: Callable[[RowT], object]
) -> Page[T]:
    """A page from `limit + 1` rows: a row too many is not shown, but says that there is more."""
    shown = rows[:limit]
    more = len(rows) > limit
    cursor = urlsafe_b64encode(msgspec.json.encode(to_key(shown[-1]))).decode("ascii") if more else None
    return Page(items=[to_item(row) for row in shown], next_cursor=cursor)
