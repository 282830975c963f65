"""How much one process and one PostgreSQL carry: CPU, connections and memory, and what a turn leaves on the disk.

CPU is counted by the kernel for each process, so that what else the machine does hardly matters:

    .venv/bin/python -m benchmarks.sizing
"""

import asyncio
import os
import statistics
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx

from benchmarks.stored import Written, written
from chatapi.db.engine import POSTGRESQL_POOL_SIZE
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from tests.support.pgbouncer import PROGRAM, PgBouncer, knows_prepared_statements
from tests.support.postgres import Postgres
from tests.support.serving import SECRET, Client, Process, settings_for

USERS = 16
TURNS = 60
WAITING = 1_000
TICKS = os.sysconf("SC_CLK_TCK")


class Run(NamedTuple):
    """CPU of a turn in milliseconds, and how many connections were at work, on average and at most."""

    service: float
    postgres: float
    busy: float
    busiest: int
    held: float  # milliseconds of a connection a turn


@asynccontextmanager
async def service(database_url: str) -> AsyncIterator[tuple[Process, str]]:
    environ = {
        "DATABASE_URL": database_url,
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "tests.support.agents:CommandedAgent",
        "RATE_LIMIT": "off",
        "RATE_LIMIT_CHAT": "off",
        "CHAT_TIMEOUT": "600",
    }
    with tempfile.TemporaryDirectory() as directory:
        async with Process(Path(directory), environ) as process:
            yield process, await process.ready()
            process.terminate()
            await process.wait()


def cpu_seconds(pids: Sequence[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def converse(url: str, user_id: str, turns: int) -> None:
    async with Client(url, user_id) as client:
        conversation_id = None
        for _ in range(turns):
            conversation_id = (await client.said("say Hello.", conversation_id))["conversation_id"]


@asynccontextmanager
async def watched(postgres: Postgres) -> AsyncIterator[list[int]]:
    """How many connections are at work, again and again: asked by a process of its own, since this one is busy."""
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'chatapi' AND state <> 'idle' "
        "\\watch interval=0.02"
    )
    url = postgres.url("postgres", role="postgres")
    seen: list[int] = []
    asking = await asyncio.create_subprocess_exec(
        postgres.programs / "psql", "-AtqX", url, stdin=PIPE, stdout=PIPE
    )
    assert asking.stdin
    asking.stdin.write(question.encode() + b"\n")
    await asking.stdin.drain()
    try:
        yield seen
    finally:
        asking.terminate()
        said, _ = await asking.communicate()
        seen += [int(line) for line in said.split()[:-1]]


async def load(url: str, process: Process, postgres: Postgres) -> Run:
    """All users at once, after a warm-up that opens the connections."""
    await asyncio.gather(*(converse(url, f"warm-{user}", 3) for user in range(USERS)))
    backends = children_of(postgres.pid)
    before, before_there = cpu_seconds([process.pid]), cpu_seconds(backends)
    async with watched(postgres) as seen:
        began = time.perf_counter()
        await asyncio.gather(*(converse(url, f"user-{user}", TURNS) for user in range(USERS)))
        seconds = time.perf_counter() - began
    service, there = cpu_seconds([process.pid]) - before, cpu_seconds(backends) - before_there
    turns = USERS * TURNS / 1_000
    busy = statistics.mean(seen)
    return Run(service / turns, there / turns, busy, max(seen), busy * seconds / turns)


async def wait_in(url: str, user_id: str) -> None:
    async with Client(url, user_id) as client:
        with suppress(httpx.TransportError):  # nobody waits for the end
            await client.said("sleep 500")


async def all_wait(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("SET chatapi.everyone = 'on'")
    while await connection.fetchval("SELECT count(*) FROM turns WHERE status = 'running'") < WAITING:  # noqa: ASYNC110 - no event comes
        await asyncio.sleep(0.5)
    await connection.close()


async def behind_pgbouncer(postgres: Postgres, *, prepared: bool) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    pooler = await asyncio.to_thread(
        PgBouncer, postgres, database, pool_size=POSTGRESQL_POOL_SIZE, prepared=prepared
    )
    try:
        async with service(pooler.url) as (process, url):
            run = await load(url, process, postgres)
        how = "that keeps statements prepared" if prepared else "that keeps none"
        print(f"behind a PgBouncer {how}: service {run.service:.1f} ms, PostgreSQL {run.postgres:.1f} ms")
    finally:
        await asyncio.to_thread(pooler.close)


def show(found: Written) -> None:
    print(f"{'a turn stores':<20}{'rows':>8}{'bytes':>8}{'indexes':>8}")
    for table in found.tables:
        print(f"{table.table:<20}{table.rows:>8.2f}{table.bytes:>8.0f}{table.indexes:>8.0f}")
    print(
        f"{'all':<28}{sum(t.bytes for t in found.tables):>8.0f}{sum(t.indexes for t in found.tables):>8.0f}"
    )
    print(f"log: {found.log:.0f} bytes a turn; where no page is in it yet {found.log_at_most:.0f},")
    print(f"with wal_compression {found.log_compressed:.0f}")
    print(f"transaction ids a turn: {found.ids:.1f}")


async def main() -> None:
    postgres = await asyncio.to_thread(Postgres)
    await asyncio.to_thread(postgres.prepare)
    database_url = postgres.url(await asyncio.to_thread(postgres.new_database))
    await asyncio.to_thread(upgrade, settings_for(database_url), Patience())
    try:
        async with service(database_url) as (process, url):
            run = await load(url, process, postgres)
        print(f"CPU a turn: service {run.service:.1f} ms, PostgreSQL {run.postgres:.1f} ms")
        print(f"a core of the service needs {run.postgres / run.service:.2f} of a core of PostgreSQL")
        print(f"connections at work for {USERS} users: {run.busy:.1f} on average, {run.busiest} at most")
        print(f"a turn holds one for {run.held:.1f} ms")
        if PROGRAM is not None:
            await behind_pgbouncer(postgres, prepared=False)
        if knows_prepared_statements():
            await behind_pgbouncer(postgres, prepared=True)
        other_url = postgres.url(await asyncio.to_thread(postgres.new_database))
        async with service(other_url) as (_, url):
            show(await written(url, other_url.replace("//chatapi@", "//postgres@")))
        async with service(database_url) as (process, url):
            await converse(url, "first", 3)
            before = resident(process.pid)
            turns = [asyncio.create_task(wait_in(url, f"waiting-{n}")) for n in range(WAITING)]
            await all_wait(database_url)
            each = (resident(process.pid) - before) / WAITING
            print(f"a process: {before / 2**20:.0f} MiB; a waiting turn: {each / 2**10:.0f} KiB")
            process.kill()
            await asyncio.gather(*turns)
    finally:
        await asyncio.to_thread(postgres.close)


if __name__ == "__main__":
    asyncio.run(main())
