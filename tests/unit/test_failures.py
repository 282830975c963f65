"""Which errors of PostgreSQL mean that it is away, and which that it takes no writes."""

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from chatapi.db.failures import is_outage, is_read_only, is_transient, unavailable
from chatapi.errors.database import DatabaseReadOnly, DatabaseUnavailable


@pytest.mark.parametrize(
    ("sqlstate", "outage", "told"),
    [
        ("25006", False, DatabaseReadOnly),  # of a former primary that is a standby now
        ("57P01", True, DatabaseUnavailable),  # it stops
        ("57P02", True, DatabaseUnavailable),  # another process of it has crashed
        ("57P03", True, DatabaseUnavailable),  # it starts, or follows and takes no connections yet
        ("08006", True, DatabaseUnavailable),
        ("23505", False, None),
    ],
)
def test_a_server_that_changes_its_part_is_told_apart(
    sqlstate: str, told: type[DatabaseUnavailable] | None, *, outage: bool
) -> None:
    error = DBAPIError(None, None, asyncpg.PostgresError.new({"C": sqlstate, "M": "no"}))
    assert is_outage(error) is outage
    assert is_read_only(error) is (told is DatabaseReadOnly)
    assert is_transient(error) is (told is not None)
    if told is not None:
        assert type(unavailable(error)) is told
