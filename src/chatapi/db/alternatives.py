"""Turns that answer the same anew: which of them counts.

Asked of one turn at a time, by a row that answers the question, and not by EXISTS: of that PostgreSQL makes
joins, and then looks at all turns to give the last ten, or at the answers of everybody.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Integer, and_, case, func, literal_column, or_, select
from sqlalchemy.orm import aliased

from chatapi.db.models import RUNNING, Message, Turn


def is_answered(turn: Any) -> ColumnElement[bool]:
    """It has an answer that its user has seen: a whole one, or what it had said and done when it was cancelled."""
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
    found = select(literal_column("1", Integer())).where(
        later.alternative_of == first,
        later.id > Turn.id,
        later.user_id == Turn.user_id,
        counts(later),
    )
    # By a comparison whose negation it takes for the rule, where it takes IS NULL for the exception.
    return func.coalesce(found.limit(1).scalar_subquery(), 0) == 1
