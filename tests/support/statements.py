"""What is sent to the database for a request: on PostgreSQL each is a round trip."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import Pool

from chatapi.context import current_request


@contextmanager
def sent_for_requests() -> Iterator[list[str]]:
    """The statements that requests to services in this process have sent meanwhile, BEGIN and COMMIT among them.

    Heartbeats and the like are no part of a request. Connections made before are not fully listened to.
    """
    sent: list[str] = []

    def note(statement: str) -> None:
        if current_request.get() is not None:
            sent.append(" ".join(statement.split()))

    def connected(connection: Any, _: Any) -> None:
        """asyncpg tells what does not come by way of SQLAlchemy's cursors: BEGIN, COMMIT, and what runs alone."""
        if hasattr(connection.driver_connection, "add_query_logger"):
            connection.driver_connection.add_query_logger(lambda query: note(query.query))

    def executed(_: Connection, __: Any, statement: str, *___: Any) -> None:
        note(statement)

    def committed(connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            note("COMMIT")

    listeners: list[tuple[Any, str, Any]] = [
        (Pool, "connect", connected),
        (Engine, "before_cursor_execute", executed),
        (Engine, "commit", committed),
    ]
    for listener in listeners:
        event.listen(*listener)
    try:
        yield sent
    finally:
        for listener in listeners:
            event.remove(*listener)
