"""Which turn counts when later turns answer a first one anew.

A scalar subquery asks this for one turn at a time. Do not use EXISTS: PostgreSQL makes joins of it, and then reads
all turns to give the last ten, or everybody's answers.

These expressions are built once, so they take the owner as the parameter `user_id` of the statement that they are part of. A
subquery that compares its owner with a column of the query around it would be asked of all machines by Citus.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Integer, and_, case, func, literal_column, or_, select
from sqlalchemy.orm import aliased

from chatapi.db.models import RUNNING, Message, Turn
from chatapi.db.owner import USER_ID


@cache
def is_answered(turn: Any) -> ColumnElement[bool]:
    """Whether the turn's user has seen an answer: a whole one, or what it had said and done when cancelled."""
    answer = aliased(Message)
    said = select(answer.id).where(
        answer.turn_id == turn.id, answer.user_id == USER_ID, answer.role == "assistant"
    )
    return or_(
        turn.status == "completed", and_(turn.status == "cancelled", said.scalar_subquery().is_not(None))
    )


def is_answered_or_under_way(turn: Any) -> ColumnElement[bool]:
    return or_(turn.status == RUNNING, is_answered(turn))


@cache
def superseded(counts: Callable[[Any], ColumnElement[bool]]) -> ColumnElement[bool]:
    """Whether a later turn, for which `counts` holds, answers anew what `Turn` answers.

    Use CASE, not COALESCE: PostgreSQL takes COALESCE for leaky, and would use no index for it under row-level
    security.
    """
    later = aliased(Turn)
    first = case((Turn.alternative_of.is_(None), Turn.id), else_=Turn.alternative_of)
    found = select(literal_column("1", Integer())).where(
        later.alternative_of == first,
        later.id > Turn.id,
        later.user_id == USER_ID,
        counts(later),
    )
    # Compare with 1 instead of testing IS NULL: the planner takes `NOT (x = 1)` for common and `x IS NULL` for rare.
    return func.coalesce(found.limit(1).scalar_subquery(), 0) == 1


@cache
def is_in_history() -> ColumnElement[bool]:
    """Whether models are shown `Turn` in later turns: it has an answer, and no later answer to the same."""
    return and_(is_answered(Turn), ~superseded(is_answered))


@cache
def is_shown() -> ColumnElement[bool]:
    """Whether `Turn` is shown, of those that answer one anew: the last that runs or has an answer, or else the first."""
    return and_(
        ~superseded(is_answered_or_under_way),
        or_(Turn.alternative_of.is_(None), is_answered_or_under_way(Turn)),
    )
