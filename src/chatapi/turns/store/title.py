"""The title that the end of a turn gives to a conversation that has none.

Its user decides: a conversation whose title was ever set or taken away (`titled_at`) is left alone.
"""

from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, case, false, func, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.conversations.search.folding import fold
from chatapi.conversations.search.index import place_title
from chatapi.db.models import Conversation, now
from chatapi.turns.store.rows import Run

UNTITLED = and_(Conversation.title.is_(None), Conversation.titled_at.is_(None))


class Title(Struct, frozen=True):
    """A title, and when any process may ask a model for a better one, if there is a model."""

    text: str
    due_at: datetime | None


class Titler(Protocol):
    def title_for(self, run: Run) -> Title | None:
        """The title that the conversation is given, if it has none when this run's turn ends."""
        ...

    def given(self, run: Run, title: Title) -> None:
        """Hear that the conversation was given the title."""
        ...


def titled(title: ColumnElement[Any], due_at: ColumnElement[Any], at: ColumnElement[Any]) -> dict[str, Any]:
    """The columns of a conversation that is given this title unless it has one; parameters of a statement."""
    gives = and_(UNTITLED, title.is_not(None))
    return {
        "title": case((gives, title), else_=Conversation.title),
        "titled_at": case((gives, at), else_=Conversation.titled_at),
        "title_due": case((gives, due_at), else_=Conversation.title_due),
    }


def is_titled(at: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether `titled` has given the title, by the row as it is then."""
    return func.coalesce(Conversation.titled_at == at, false()).label("is_titled")


def title_values(title: Title | None) -> dict[str, Any]:
    """The parameters of a store's own statements for these."""
    return {
        "title": title and title.text,
        "title_due": title and title.due_at,
        "title_words": title and fold(title.text),
    }


async def give_title(session: AsyncSession, run: Run, title: Title | None) -> bool:
    """As `titled`, as a statement of its own; returns whether it has given the title."""
    if title is None:
        return False
    given = await session.scalar(
        update(Conversation)
        .where(Conversation.id == run.conversation_id, Conversation.user_id == run.user_id, UNTITLED)
        .values(
            title=title.text,
            titled_at=now(),
            title_due=title.due_at,
            updated_at=Conversation.updated_at,
        )
        .returning(Conversation.id)
    )
    if given is not None:
        await place_title(session, run.user_id, run.conversation_id, fold(title.text))
    return given is not None
