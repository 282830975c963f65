"""When a database is taken to be away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from chatapi.db.breaker import FAILURES_TO_ASK, Breaker
from chatapi.db.database import PINGS, Database
from chatapi.errors.database import DatabaseUnavailable
from chatapi.patience import Patience
from tests.support.databases import open_database
from tests.support.serving import settings_for

KILLED = DBAPIError(None, None, Exception(), connection_invalidated=True)
REFUSED = ConnectionRefusedError()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database(settings_for(f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}"))
    yield database
    await database.close()


def fail(database: Database, *failures: Exception) -> None:
    """Have the next statements raise these."""
    left = list(failures)

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def listen(*_: object) -> None:
        if left:
            raise left.pop(0)


async def states_of(database: Database, *failures: Exception) -> list[float]:
    """The states that a breaker reports when it probes, after `FAILURES_TO_ASK` failures, and gets these answers."""
    fail(database, *failures)
    told: list[float] = []
    breaker = Breaker(database.ping, told.append, Patience(database_probe_pause=0))
    for _ in range(FAILURES_TO_ASK):
        breaker.failed()
    while breaker._probing is not None:
        if breaker.is_open:
            with pytest.raises(DatabaseUnavailable):
                breaker.check()
        await asyncio.sleep(0)
    breaker.check()
    return told


async def test_connections_that_were_killed_are_no_outage(database: Database) -> None:
    """The pool may hand out a connection that was killed with the others, without knowing it."""
    assert await states_of(database, KILLED, KILLED) == [0]


async def test_nor_do_they_make_a_service_unready(database: Database) -> None:
    fail(database, KILLED, KILLED)
    await database.check()


async def test_a_database_that_lets_nobody_in_is_away_until_it_does(database: Database) -> None:
    assert await states_of(database, REFUSED) == [1, 0]


async def test_a_database_on_which_every_connection_is_lost_is_away(database: Database) -> None:
    assert await states_of(database, *[KILLED] * PINGS["attempts"]) == [1, 0]


async def test_an_error_of_another_kind_is_logged_and_counts_as_away(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert await states_of(database, ZeroDivisionError()) == [1, 0]
    assert "The database answers with an error" in caplog.text
