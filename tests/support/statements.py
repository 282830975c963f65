"""The statements that a request sends to the database: on PostgreSQL each is a round trip."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import Pool

from chatapi.context import current_request


def listen(note: Callable[[str], None], connection: Any, _: Any) -> None:
    """Note the statements that pass by SQLAlchemy's cursors, as the driver reports them: BEGIN, COMMIT and autocommit."""
    driver = connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        last = ""

        # SQLite repeats the whole statement for each row of a cascade.
        def note_unless_again(statement: str) -> None:
            nonlocal last
            if statement != last:
                note(statement)
            last = statement

        driver.set_trace_callback(note_unless_again)
    else:
        driver.add_query_logger(lambda query: note(query.query))


@contextmanager
def sent_for_requests(*, and_beside_them: bool = False) -> Iterator[list[str]]:
    """The statements that requests to services in this process have sent meanwhile, BEGIN and COMMIT among them.

    Heartbeats and the like are no part of a request: they count if `and_beside_them`. Connections made before are not
    fully listened to.
    """
    sent: list[str] = []

    def note(statement: str) -> None:
        # Leave out SQLite's cascades, and the PRAGMAs that set the kind of the next transaction.
        counts = and_beside_them or current_request.get() is not None
        if counts and not statement.startswith(("--", "PRAGMA")):
            sent.append(" ".join(statement.split()))

    def executed(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if connection.dialect.name != "sqlite":
            note(statement)

    listeners: list[tuple[Any, str, Any]] = [
        (Pool, "connect", partial(listen, note)),
        (Engine, "before_cursor_execute", executed),
    ]
    for listener in listeners:
        event.listen(*listener)
    try:
        yield sent
    finally:
        for listener in listeners:
            event.remove(*listener)
