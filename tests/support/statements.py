"""What is sent to the database for a request: on PostgreSQL each is a round trip."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import Pool

from chatapi.context import current_request


def listen(note: Callable[[str], None], connection: Any, _: Any) -> None:
    """The drivers tell what does not come by way of SQLAlchemy's cursors: BEGIN, COMMIT, and what runs alone."""
    driver = connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        last = ""

        def note_unless_again(
            statement: str,
        ) -> None:  # SQLite tells of each row of a cascade by the whole statement
            nonlocal last
            if statement != last:
                note(statement)
            last = statement

        driver.set_trace_callback(note_unless_again)
    else:
        driver.add_query_logger(lambda query: note(query.query))


@contextmanager
def sent_for_requests() -> Iterator[list[str]]:
    """The statements that requests to services in this process have sent meanwhile, BEGIN and COMMIT among them.

    Heartbeats and the like are no part of a request. Connections made before are not fully listened to.
    """
    sent: list[str] = []

    def note(statement: str) -> None:
        # Without what a cascade of SQLite's does, and which kind of transaction comes.
        if current_request.get() is not None and not statement.startswith(("--", "PRAGMA")):
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
