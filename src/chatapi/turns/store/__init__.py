"""The store of turns, for PostgreSQL and for SQLite."""

from chatapi.db.database import Database
from chatapi.turns.store.base import TurnStore
from chatapi.turns.store.postgres import PostgresTurnStore
from chatapi.turns.store.rows import Claim, Key, Run, Said, Shown
from chatapi.turns.store.sqlite import SqliteTurnStore

__all__ = [
    "Claim",
    "Key",
    "PostgresTurnStore",
    "Run",
    "Said",
    "Shown",
    "SqliteTurnStore",
    "TurnStore",
    "turn_store",
]


def turn_store(database: Database) -> TurnStore:
    """The store for a database."""
    return PostgresTurnStore(database) if database.is_postgresql else SqliteTurnStore(database)
