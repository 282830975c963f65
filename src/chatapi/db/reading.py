"""Sessions that only read, on PostgreSQL: each select is a transaction by itself, without BEGIN and COMMIT.

Transactions are READ COMMITTED here, so each statement of one sees what was committed before the statement, as these do.
"""

from typing import Any, NoReturn

from sqlalchemy import Select, event, func, literal, select, true
from sqlalchemy.orm import ORMExecuteState, Session

AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}
SETTINGS = "chatapi.settings"


class OnlyReads(TypeError):
    """Something was to be written by a session that only reads."""


class ReadingSession(Session):
    """`info[SETTINGS]` are the settings for row-level security, by name, which each select sets for itself."""


@event.listens_for(ReadingSession, "do_orm_execute")
def set_in_the_statement(state: ORMExecuteState) -> None:
    """Set the settings before the statement reads anything, as `db.owner.OWNER_IS_SET` does."""
    statement = state.statement
    if not isinstance(statement, Select):
        raise OnlyReads
    for name, value in state.session.info[SETTINGS].items():
        setting = select(func.set_config(name, literal(value), true()).label("value")).cte()
        statement = statement.where(select(setting.c.value).scalar_subquery().is_not(None))
    state.statement = statement


@event.listens_for(ReadingSession, "before_flush")
def refuse(*_: Any) -> NoReturn:
    raise OnlyReads
