"""When a database is taken to be away."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy.exc import DBAPIError

from chatapi.db import resilience
from chatapi.db.resilience import FAILURES_TO_ASK, Breaker
from chatapi.errors import DatabaseUnavailable

KILLED = DBAPIError(None, None, Exception(), connection_invalidated=True)
REFUSED = ConnectionRefusedError()


class Probe:
    """Fails as it is told, and then answers."""

    def __init__(self, *failures: Exception) -> None:
        self._failures: Iterator[Exception] = iter(failures)

    async def __call__(self) -> None:
        if (failure := next(self._failures, None)) is not None:
            raise failure


async def states_of(probe: Probe) -> list[float]:
    """What is told while it asks after as many failures as make it."""
    told: list[float] = []
    breaker = Breaker(probe, told.append)
    for _ in range(FAILURES_TO_ASK):
        breaker.failed()
    while breaker._probing is not None:
        if breaker.is_open:
            with pytest.raises(DatabaseUnavailable):
                breaker.check()
        await asyncio.sleep(0)
    breaker.check()
    return told


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "PROBE_SECONDS", 0)


async def test_connections_that_were_killed_are_no_outage() -> None:
    """The pool may hand out one that was killed with the others, and is not known to be."""
    assert await states_of(Probe(KILLED, KILLED)) == [0]


async def test_a_database_that_lets_nobody_in_is_away_until_it_does() -> None:
    assert await states_of(Probe(REFUSED)) == [1, 0]


async def test_a_database_on_which_every_connection_is_lost_is_away() -> None:
    assert await states_of(Probe(*[KILLED] * FAILURES_TO_ASK)) == [1, 0]


async def test_an_error_of_another_kind_is_logged_and_counts_as_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await states_of(Probe(ZeroDivisionError())) == [1, 0]
    assert "The database answers with an error" in caplog.text
