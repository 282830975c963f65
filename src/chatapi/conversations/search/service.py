"""Searches one user's messages, best first.

The rows of the index begin with the owner and hold the folded text, so one scan of the owner's rows answers every query,
whatever its words are and whatever others have. docs/adr/0020 says why it is not the database's full-text search.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Integer, Select, and_, case, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.schemas import Found
from chatapi.conversations.search.folding import NO_MESSAGE, TITLE, WHOLE, NotSearchable, needles_of
from chatapi.conversations.search.snippets import snippet_of, spans_of
from chatapi.db.models import Conversation, Message, SearchText
from chatapi.db.paging import MAX_ID, Id, Page, decode_cursor
from chatapi.db.texts import position
from chatapi.errors.domains import ConversationNotFound, SearchTooLong
from chatapi.errors.requests import Invalid

# Matches are ranked among the newest so many, then among the next: to score all matches of a very common word would take
# most of a second where a user has much.
WINDOW = 500

Match = tuple[int, Id]  # a score, and a message's id


class Cursor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A place in the results of one query: after `last`, in the window of ids from `floor` to below `before`.

    Both ends of the window are fixed, so new messages do not move it, and older ones do not come in for deleted ones.
    """

    query: str
    before: Id = MAX_ID
    floor: Id = 0
    last: Match | None = None


class SearchService:
    """Every method takes the owner first."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def search(
        self,
        user_id: str,
        query: str,
        *,
        limit: int,
        seconds: float,
        cursor: str | None = None,
        conversation_id: int | None = None,
    ) -> Page[Found]:
        """A page of what was found. Each look at the index may take so many seconds.

        Raises `Invalid` for a query that cannot be searched for, `ConversationNotFound` and `SearchTooLong`.
        """
        try:
            needles = needles_of(query)
        except NotSearchable as error:
            raise Invalid(("q", str(error))) from None
        place = cursor_of(cursor, name_of(needles, conversation_id))
        if conversation_id is not None:
            await self._check_conversation(user_id, conversation_id)
        ids, after = await self._ranked(
            lambda before: matching(user_id, needles, conversation_id, before), place, limit, seconds
        )
        items = await self._shown(user_id, ids, needles)
        return Page(items=items, next_cursor=None if after is None else text_of(after))

    async def _check_conversation(self, user_id: str, conversation_id: int) -> None:
        owned = select(Conversation.id).where(
            Conversation.id == conversation_id, Conversation.user_id == user_id
        )
        if not 0 < conversation_id <= MAX_ID or await self._session.scalar(owned) is None:
            raise ConversationNotFound(conversation_id)

    async def _ranked(
        self, matches: Callable[[int], Select[Match]], place: Cursor, limit: int, seconds: float
    ) -> tuple[list[int], Cursor | None]:
        """The ids of the next matches, and the place after them, if there are more."""
        picked: list[int] = []
        while True:
            window = await self._run(matches(place.before), seconds)
            low = place.floor or min((id_ for _, id_ in window), default=0)
            is_last = place.floor == 0 and len(window) < WINDOW
            rest = [
                match for match in window if match[1] >= low and (place.last is None or match < place.last)
            ]
            room = limit - len(picked)
            picked += [id_ for _, id_ in rest[:room]]
            if len(rest) > room:
                end = min(place.before, max(id_ for _, id_ in window) + 1)
                return picked, Cursor(place.query, end, 0 if is_last else low, rest[room - 1])
            if is_last:
                return picked, None
            place = Cursor(place.query, low)
            if len(picked) == limit:
                return picked, place

    async def _run(self, statement: Select[Match], seconds: float) -> list[Match]:
        """The statement's rows; raises `SearchTooLong` if it takes too long.

        SQLite is interrupted then. The connection to PostgreSQL is dropped, and the server ends the statement when it
        notices: within 2 s, or behind a pooler only when it answers.
        """
        try:
            async with asyncio.timeout(seconds):
                rows = await self._session.execute(statement)
        except TimeoutError:
            raise SearchTooLong(seconds) from None
        return [(row.score, row.message_id) for row in rows]

    async def _shown(self, user_id: str, ids: Sequence[int], needles: Sequence[str]) -> list[Found]:
        """The messages with these ids, in their order; one that was deleted just now is left out."""
        if not ids:
            return []
        rows = await self._session.execute(
            select(
                Message.id,
                Message.conversation_id,
                Message.turn_id,
                Message.role,
                Message.content,
                Message.created_at,
                Conversation.title,
            )
            .join(
                Conversation,
                and_(
                    Conversation.user_id == Message.user_id,
                    Conversation.id == Message.conversation_id,
                ),
            )
            .where(Message.user_id == user_id, Conversation.user_id == user_id, Message.id.in_(ids))
        )
        found = {row.id: row for row in rows}
        items = []
        for row in (found[id_] for id_ in ids if id_ in found):
            shown, hits = row.content, spans_of(row.content, needles)
            if not hits and row.title is not None:
                shown, hits = row.title, spans_of(row.title, needles)
            items.append(
                Found(
                    conversation_id=row.conversation_id,
                    title=row.title,
                    message_id=row.id,
                    turn_id=row.turn_id,
                    role=row.role,
                    snippet=snippet_of(shown, hits),
                    created_at=row.created_at,
                )
            )
        return items


def matching(user_id: str, needles: Sequence[str], conversation_id: int | None, before: int) -> Select[Match]:
    """Select the newest matches below an id with their scores, best first, in one pass over the owner's rows.

    A title and a text each match by themselves. A long text lies in several rows: those that have any needle are put
    together, and must have all of them.

    The score has the form of BM25's, without numbers that depend on other texts: whole numbers from 0 to 10 for each
    needle, equal on both databases, so that among equals the newest is first.
    """
    row = SearchText
    parameters = [literal(needle, row.words.type) for needle in needles]
    has = [position(row.words, each) > 0 for each in parameters]
    where = [row.user_id == user_id, row.message_id > NO_MESSAGE, row.message_id < before]
    if conversation_id is not None:
        where.append(row.conversation_id == conversation_id)
    found = (
        select(
            row.message_id,
            func.aggregate_strings(row.words, "|").label("words"),
            func.max(case((row.part == TITLE, 1), else_=0)).label("title"),
        )
        .where(*where, or_(and_(row.part <= WHOLE, *has), and_(row.part > WHOLE, or_(*has))))
        .group_by(row.conversation_id, row.message_id)
        .having(
            or_(
                func.min(row.part) <= WHOLE,
                and_(*(func.max(position(row.words, each)) > 0 for each in parameters)),
            )
        )
        .order_by(row.message_id.desc())
        .limit(WINDOW)
        .subquery("found")
    )
    words = found.c.words
    size = length(words) // 512
    score: ColumnElement[int] = 10 * found.c.title
    for each in parameters:
        hits = (length(words) - length(func.replace(words, each, ""))) // length(each)
        score += 100 * hits // (hits + 1 + size) // 10
    scored = score.label("score")
    return select(scored, found.c.message_id).order_by(scored.desc(), found.c.message_id.desc())


def length(value: Any) -> ColumnElement[int]:
    return func.length(value, type_=Integer())


def name_of(needles: Sequence[str], conversation_id: int | None) -> str:
    """What a cursor knows its query by."""
    return blake2b(msgspec.json.encode([needles, conversation_id]), digest_size=6).hexdigest()


def cursor_of(text: str | None, query: str) -> Cursor:
    place = decode_cursor(text, Cursor)
    if place is not None and place.query != query:
        raise Invalid(("cursor", "is of another query"))
    return place or Cursor(query)


def text_of(cursor: Cursor) -> str:
    return urlsafe_b64encode(msgspec.json.encode(cursor)).decode("ascii")
