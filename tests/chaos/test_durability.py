"""Every promise of docs/durability.md, counted after two replicas and their database were disturbed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import LEAST, SCENARIOS, run_scenario
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow

SECONDS = 10.0  # of disturbance; what follows is the time until the last lease of a dead process has ended


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server that may be stopped."""
    server = Postgres()
    server.prepare()
    yield server
    server.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_nothing_acknowledged_is_lost_or_doubled(
    own_postgres: Postgres, tmp_path: Path, scenario: str
) -> None:
    report = await run_scenario(scenario, own_postgres, tmp_path, SECONDS)
    print(f"\n{report}", file=sys.stderr)
    assert report.disturbances >= LEAST
    assert report.acknowledged >= 24
    assert report.replayed == report.acknowledged
    assert {name: count for name, count in report.wrong.items() if count} == {}
