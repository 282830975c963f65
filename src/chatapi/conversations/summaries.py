"""How far a conversation is summed up, as its callers see it; `turns.summaries` makes the summaries."""

from typing import Any

from sqlalchemy import BindParameter, ColumnElement, select

from chatapi.db.models import Conversation, Summary


def summarized_until(user_id: str | BindParameter[str]) -> ColumnElement[Any]:
    """The last turn that the newest summary of `Conversation` covers; null without one."""
    return (
        select(Summary.turn_id)
        .where(
            Summary.user_id == user_id,
            Summary.conversation_id == Conversation.id,
            Summary.content.is_not(None),
        )
        .order_by(Summary.number.desc())
        .limit(1)
        .scalar_subquery()
    )
