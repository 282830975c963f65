"""Turns that answer the same anew: which of them counts."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, or_, select
from sqlalchemy.orm import aliased

from chatapi.db.models import RUNNING, Message, Turn


def is_answered(turn: Any) -> ColumnElement[bool]:
    """It has an answer that its user has seen: a whole one, or what it had said and done when it was cancelled.

    By the answer's id and not by EXISTS, for which PostgreSQL may read the answers of all turns at once.
    """
    answer = aliased(Message)
    said = select(answer.id).where(
        answer.turn_id == turn.id, answer.user_id == turn.user_id, answer.role == "assistant"
    )
    return or_(
        turn.status == "completed", and_(turn.status == "cancelled", said.scalar_subquery().is_not(None))
    )


def is_answered_or_under_way(turn: Any) -> ColumnElement[bool]:
    return or_(turn.status == RUNNING, is_answered(turn))


def superseded(counts: Callable[[Any], ColumnElement[bool]]) -> ColumnElement[bool]:
    """Whether a later turn that `counts` answers anew what `Turn` answers.

    CASE and not COALESCE, which PostgreSQL takes for leaky: under row-level security it would look for no index by it.
    """
    later = aliased(Turn)
    first = case((Turn.alternative_of.is_(None), Turn.id), else_=Turn.alternative_of)
    return exists().where(
        later.alternative_of == first,
        later.id > Turn.id,
        later.user_id == Turn.user_id,
        counts(later),
    )
