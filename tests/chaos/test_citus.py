"""A machine of a Citus is lost under load and comes back: nothing acknowledged is lost, and users on other machines go on."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from chatapi.db.clock import LEASE_SECONDS
from tests.chaos.failover import Load
from tests.chaos.harness import Fleet, audit
from tests.support.citus import DATA, Citus, Machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Citus.of_environment() and os.environ.get(DATA)), reason=f"{DATA} names no machines to stop"
    ),
]

AWAY = LEASE_SECONDS + 3  # so that leases end, which are on every machine


@pytest.fixture
async def database() -> AsyncIterator[str]:
    """Its name."""
    citus = Citus.of_environment()
    assert citus is not None
    name = await asyncio.to_thread(citus.new_database)
    yield name
    await asyncio.to_thread(citus.drop, name)


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("which", ["worker", "coordinator"])
async def test_nothing_acknowledged_is_lost_with_a_machine(
    database: str, tmp_path: Path, which: str, how: Literal["stopped", "killed"]
) -> None:
    citus = Citus.of_environment()
    assert citus is not None
    fleet = Fleet(tmp_path, citus.url(database))
    machines = {each.port: each for each in Machine.of_environment()}
    try:
        await fleet.start()
        load = Load(fleet)
        places = [await citus.port_of(database, talker.user_id) for talker in load.talkers]
        lost = places[0] if which == "worker" else citus.port
        elsewhere = [talker for talker, port in zip(load.talkers, places, strict=True) if port != lost]
        assert elsewhere
        await load.all_answered()
        await asyncio.to_thread(machines[lost].end, how)
        try:
            began = time.monotonic()
            while time.monotonic() < began + AWAY:
                if which == "worker":
                    await load.all_answered(elsewhere)
                await asyncio.sleep(0.1)
        finally:
            await asyncio.to_thread(machines[lost].start)
        back = time.monotonic()
        await load.all_answered()
        seconds = time.monotonic() - back
        await load.end()
        replayed, wrong = await audit(citus.admin_url(database), load.talkers, fleet)
    finally:
        await fleet.stop()
    print(f"\nall answered {seconds:.1f} s after the {which} was back; {load.seen}", file=sys.stderr)
    assert replayed == sum(len(talker.acknowledged) for talker in load.talkers)
    assert {name: count for name, count in wrong.items() if count} == {}
