"""SQLite on the event loop: who waits for whom, what is on the disk, and what may not hold the loop."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateTable

from chatapi.db import sqlite
from chatapi.db.database import Database
from chatapi.db.models import Worker
from chatapi.db.owner import EVERYONE
from chatapi.errors.database import DatabaseUnavailable
from chatapi.patience import Patience
from chatapi.turns.lease import Lease
from tests.support.databases import open_database
from tests.support.serving import clean_environ, settings_for

READ = text("SELECT value FROM counter")
WRITE = text("UPDATE counter SET value = :value")
ADD = text("UPDATE counter SET value = value + 1")
LONG = "SELECT count(*) FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) SELECT i FROM n)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chatapi.db"


@pytest.fixture
async def database(file: Path) -> AsyncIterator[Database]:
    database = open_database(settings_for(f"sqlite:///{file}"))
    async with database.transaction(EVERYONE) as session:
        await session.execute(text("CREATE TABLE counter (value INTEGER)"))
        await session.execute(text("INSERT INTO counter VALUES (0)"))
    yield database
    await database.close()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> "Syncs":
    syncs = Syncs()
    monkeypatch.setattr(sqlite, "sync_data", syncs.sync)
    return syncs


class Syncs:
    """Stands for a disk, because a test cannot cut its power."""

    def __init__(self) -> None:
        self.done = 0
        self.gate = threading.Event()
        self.gate.set()
        self.failures = 0

    def sync(self, _: int) -> None:
        assert self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is broken")
        self.done += 1


async def value(database: Database) -> int:
    async with database.transaction(EVERYONE, reads_only=True) as session:
        return int(await session.scalar(READ))


async def add(session: AsyncSession) -> None:
    await session.execute(ADD)


async def tell_threads(session: AsyncSession) -> None:
    """Make an SQL function thread(), which returns the thread that the statement runs in."""

    def tell(connection: Any) -> None:
        connection.connection.dbapi_connection.create_function("thread", 0, threading.get_ident)

    await (await session.connection()).run_sync(tell)


class TestWriters:
    async def test_none_loses_what_another_wrote_between_its_read_and_its_write(
        self, database: Database
    ) -> None:
        async def read_and_write() -> None:
            async with database.transaction(EVERYONE) as session:
                found = await session.scalar(READ)
                await asyncio.sleep(0)
                await session.execute(WRITE, {"value": found + 1})

        await asyncio.gather(*(read_and_write() for _ in range(20)))
        assert await value(database) == 20

    async def test_take_turns_in_the_order_in_which_they_came(self, database: Database) -> None:
        order: list[int] = []

        async def write(number: int) -> None:
            async with database.transaction(EVERYONE):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(write(number) for number in range(10)))
        assert order == list(range(10))

    async def test_let_the_heartbeat_go_ahead(self, database: Database) -> None:
        """A lease that ran out while its heartbeat stood in a long line would end all turns of the process."""
        async with database.transaction(EVERYONE) as session:
            await session.execute(CreateTable(Worker.metadata.tables["workers"]))
        leases: list[int | None] = []

        async def write() -> None:
            async with database.transaction(EVERYONE) as session:
                leases.append(await session.scalar(text("SELECT count(*) FROM workers")))

        await asyncio.gather(*(write() for _ in range(20)), Lease(database, Patience(), 60).ensure())
        assert leases.count(0) < 5

    async def test_that_wait_have_no_connection_yet(self, database: Database) -> None:
        """So a connection is left for readers, however many writers wait."""
        async with database.transaction(EVERYONE) as session:
            await session.execute(ADD)
            waiting = [asyncio.create_task(database.run(EVERYONE, add)) for _ in range(20)]
            await asyncio.sleep(0)
            assert await value(database) == 0
        await asyncio.gather(*waiting)
        assert await value(database) == 21

    async def test_wait_for_another_process(self, database: Database, file: Path) -> None:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE counter SET value = 5")
        writing = asyncio.create_task(database.run(EVERYONE, add))
        await asyncio.sleep(0.02)
        assert await value(database) == 0
        assert not writing.done()
        other.execute("COMMIT")
        other.close()
        await writing
        assert await value(database) == 6

    async def test_do_not_wait_for_another_process_for_ever(self, database: Database, file: Path) -> None:
        await database.close()
        database = open_database(settings_for(f"sqlite:///{file}"), Patience(database_locked=0.01))
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable):
            await database.run(EVERYONE, add)
        other.close()
        await database.run(EVERYONE, add)
        assert await value(database) == 1
        await database.close()


class TestReaders:
    async def test_see_what_was_committed_before_beside_a_writer(self, database: Database) -> None:
        async with database.transaction(EVERYONE) as session:
            await session.execute(ADD)
            assert await value(database) == 0
        assert await value(database) == 1

    async def test_cannot_write(self, database: Database) -> None:
        async with database.transaction(EVERYONE, reads_only=True) as session:
            with pytest.raises(OperationalError, match="readonly"):
                await session.execute(ADD)
        await database.run(EVERYONE, add)
        assert await value(database) == 1


class TestTheLoop:
    async def test_a_statement_of_a_turn_runs_on_it(self, database: Database) -> None:
        async with database.transaction(EVERYONE) as session:
            await tell_threads(session)
            assert await session.scalar(text("SELECT thread()")) == threading.get_ident()
            updated = text("UPDATE counter SET value = 1 RETURNING thread()")
            assert await session.scalar(updated) == threading.get_ident()

    @pytest.mark.parametrize("reads_only", [True, False])
    async def test_a_long_select_goes_on_in_a_thread(self, database: Database, reads_only: bool) -> None:
        async with database.transaction(EVERYONE, reads_only=reads_only) as session:
            await tell_threads(session)
            if not reads_only:
                await session.execute(ADD)
            rows = sqlite.STEPS * sqlite.LOOKS
            long = text(f"SELECT ({LONG.format(rows)}), thread()")
            counted, thread = (await session.execute(long)).one()
            assert counted == rows
            assert thread != threading.get_ident()
        assert await value(database) == (0 if reads_only else 1)

    async def test_a_delete_runs_in_a_thread(self, database: Database) -> None:
        """A DELETE's cascades may take long."""
        async with database.transaction(EVERYONE) as session:
            await tell_threads(session)
            deleted = text("DELETE FROM counter RETURNING thread()")
            assert await session.scalar(deleted) != threading.get_ident()

    async def test_what_is_cancelled_meanwhile_leaves_a_connection_that_works(
        self, database: Database
    ) -> None:
        async def read() -> None:
            async with database.transaction(EVERYONE) as session:
                await session.execute(ADD)
                await session.execute(text(LONG.format(10**9)))

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await database.run(EVERYONE, add)
        assert await value(database) == 1


class TestTheDisk:
    async def test_has_what_a_transaction_wrote_before_it_is_done(
        self, database: Database, syncs: Syncs
    ) -> None:
        syncs.gate.clear()
        writing = asyncio.create_task(database.run(EVERYONE, add))
        await asyncio.sleep(0.02)
        assert not writing.done()
        syncs.gate.set()
        await writing
        assert syncs.done == 1

    async def test_has_what_is_read_before_the_reader_is_done(self, database: Database, syncs: Syncs) -> None:
        syncs.gate.clear()
        writing = asyncio.create_task(database.run(EVERYONE, add))
        reading = asyncio.create_task(database.read(EVERYONE, lambda session: session.scalar(READ)))
        await asyncio.sleep(0.02)
        assert not reading.done()
        syncs.gate.set()
        assert await reading == 1
        await writing

    async def test_is_synced_once_for_all_who_have_committed(
        self, database: Database, file: Path, syncs: Syncs
    ) -> None:
        syncs.gate.clear()
        writing = [asyncio.create_task(database.run(EVERYONE, add)) for _ in range(20)]
        other = sqlite3.connect(file)
        while other.execute("SELECT value FROM counter").fetchone() != (20,):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)
        other.close()
        syncs.gate.set()
        await asyncio.gather(*writing)
        assert syncs.done <= 2  # the second serves those who committed after the first had begun

    async def test_is_left_alone_by_who_only_reads(self, database: Database, syncs: Syncs) -> None:
        await value(database)
        async with database.transaction(EVERYONE) as session:
            await session.scalar(READ)
        assert syncs.done == 0

    async def test_that_fails_fails_the_transaction(self, database: Database, syncs: Syncs) -> None:
        """The commit is visible to all processes but may not survive a power cut, so its outcome is unknown."""
        syncs.failures = 1
        recovered: list[int] = []

        async def recover(session: AsyncSession) -> None:
            recovered.append(await session.scalar(READ) or 0)

        await database.run(EVERYONE, add, recover)
        assert recovered == [1]

    async def test_keeps_a_log_that_does_not_grow(self, database: Database, file: Path) -> None:
        log = file.with_name(file.name + "-wal")
        sizes = []
        for _ in range(3):
            for _ in range(2):
                await asyncio.gather(
                    *(database.run(EVERYONE, add) for _ in range(sqlite.COMMITS_TO_CHECKPOINT))
                )
            sizes.append(log.stat().st_size)
        assert sizes[2] == sizes[1]

    def test_keeps_what_was_acknowledged_when_the_process_is_killed(self, file: Path) -> None:
        code = f"""
import asyncio, os, signal
from sqlalchemy import text
from chatapi.db.owner import EVERYONE
from tests.support.databases import open_database
from tests.support.serving import settings_for

async def main():
    database = open_database(settings_for("sqlite:///{file}"))
    async with database.transaction(EVERYONE) as session:
        await session.execute(text("CREATE TABLE counter (value INTEGER)"))
        await session.execute(text("INSERT INTO counter VALUES (7)"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
        killed = subprocess.run([sys.executable, "-c", code], env=clean_environ(), check=False)
        assert killed.returncode == -signal.SIGKILL
        assert sqlite3.connect(file).execute("SELECT value FROM counter").fetchall() == [(7,)]
