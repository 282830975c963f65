"""The server for chaos that leaves it alone."""

import pytest

from tests.chaos.harness import Server
from tests.support.citus import Citus


@pytest.fixture(scope="session", params=["citus" if Citus.of_environment() else "postgresql"])
def server(request: pytest.FixtureRequest) -> Server:
    """The PostgreSQL of the run, or the Citus where there is one."""
    if citus := Citus.of_environment():
        return citus
    postgres: Server = request.getfixturevalue("postgres")
    return postgres
