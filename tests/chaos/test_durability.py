"""Every promise of docs/durability.md, counted after two replicas and their database were disturbed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import LEAST, SCENARIOS, Server, run_scenario
from tests.support.citus import Citus
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow

SECONDS = 10.0  # of disturbance; what follows is the time until the last lease of a dead process has ended


@pytest.fixture(scope="module", params=["citus" if Citus.of_environment() else "postgresql"])
def own_server() -> Iterator[Server]:
    """A server that may be stopped, or the Citus."""
    if citus := Citus.of_environment():
        yield citus
        return
    server = Postgres()
    server.prepare()
    yield server
    server.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_nothing_acknowledged_is_lost_or_doubled(
    own_server: Server, tmp_path: Path, scenario: str
) -> None:
    if scenario == "restart-database" and isinstance(own_server, Citus):
        pytest.skip("test_citus.py stops the machines of a Citus, one by one.")
    report = await run_scenario(scenario, own_server, tmp_path, SECONDS)
    print(f"\n{report}", file=sys.stderr)
    assert report.disturbances >= LEAST
    assert report.acknowledged >= 24
    assert report.replayed == report.acknowledged
    assert {name: count for name, count in report.wrong.items() if count} == {}
