"""The store of turns, for PostgreSQL and for SQLite."""

from chatapi.db.database import Database
from chatapi.turns.store.base import TurnStore
from chatapi.turns.store.completions import CompletionStore
from chatapi.turns.store.queue import Queued
from chatapi.turns.store.rows import Claim, Finished, Key, Run, Said, Shown, Stored, Waited
from chatapi.turns.store.title import Title, Titler

__all__ = [
    "Claim",
    "CompletionStore",
    "Finished",
    "Key",
    "Queued",
    "Run",
    "Said",
    "Shown",
    "Stored",
    "Title",
    "Titler",
    "TurnStore",
    "Waited",
    "completion_store",
    "turn_store",
]


def turn_store(database: Database, titler: Titler | None = None) -> TurnStore:
    """The store for a database; of the modules with their statements, that of the other is not imported."""
    if database.takes_statements:
        from chatapi.turns.store.postgres import PostgresTurnStore

        return PostgresTurnStore(database, titler)
    if (
        database.is_postgresql
    ):  # on Citus, a statement that writes into several tables takes longer than several
        return TurnStore(database, titler)
    from chatapi.turns.store.sqlite import SqliteTurnStore

    return SqliteTurnStore(database, titler)


def completion_store(database: Database) -> CompletionStore:
    """The same for completions that are no turns."""
    if database.takes_statements:
        from chatapi.turns.store.postgres_completions import PostgresCompletionStore

        return PostgresCompletionStore(database)
    return CompletionStore(database)
