"""Turns that wait for their users: what 10,000 of them cost a process that has nothing to do with them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

import asyncpg

from benchmarks import servers
from benchmarks.measuring import MEGABYTE, Row, flat, interleaved
from benchmarks.servers import User, running
from chatapi.patience import Patience
from chatapi.turns.lease import Lease
from chatapi.turns.store import turn_store
from tests.support.databases import open_database
from tests.support.postgres import Postgres
from tests.support.serving import settings_for

WAITING = 10_000
BEATS = 400  # pairs of heartbeats, one on each side
LOOKS = 20
LEASE_SECONDS = 60.0  # any: the lease is renewed by hand

FILL = f"""
WITH conversation AS (
  INSERT INTO conversations (user_id, created_at, updated_at)
  SELECT 'waiting', now(), now() FROM generate_series(1, {WAITING}) RETURNING id
), turn AS (
  INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at)
  SELECT 'waiting', id, 'running', 'waiting', 'waiting-' || id, false, 'filled', now() FROM conversation
  RETURNING id, conversation_id, run_id
), said AS (
  INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
  SELECT 'waiting', conversation_id, id, role, 'What was said.', '[]', now()
  FROM turn CROSS JOIN (VALUES ('user'), ('assistant')) AS side (role)
)
INSERT INTO waits (turn_id, number, user_id, conversation_id, run_id, calls, answers, keys, events, client_tools,
                   began_at, expires_at)
SELECT id, 1, 'waiting', conversation_id, run_id,
       json_build_array(json_build_object('id', 'approval_' || id, 'kind', 'approval', 'tool_call_id', 'call_' || id,
                                          'name', 'delete_task', 'arguments', json_build_object('task_id', 1))),
       '{{}}', '{{}}', '[]', '[]', now(), now() + interval '1 day'
FROM turn
"""


def scenario(postgres: Postgres) -> list[Row]:
    """A process on a database in which 10,000 turns wait, against one on a database without any."""
    empty, full = servers.migrated(postgres), servers.migrated(postgres)
    for statement in ("INSERT INTO users (id, created_at) VALUES ('waiting', now())", FILL):
        asyncio.run(postgres.execute(statement, full))
    for database in (empty, full):
        asyncio.run(postgres.execute("ANALYZE", database))
    with running(*(servers.chatapi(postgres, database=each) for each in (empty, full))) as (without, beside):
        memory = beside.memory - without.memory
        connections = [asyncio.run(connected(postgres, each)) for each in (empty, full)]
        turns = interleaved([(side, [User("user").begin(side).turn()]) for side in (without, beside)])
    beats, look = asyncio.run(heartbeats(postgres, empty, full))
    what = f"{WAITING:,} turns that wait for their users"
    return [
        Row(
            f"{what}: memory of the process", f"{memory / MEGABYTE:+.1f} MB", "≤ 2 MB", memory <= 2 * MEGABYTE
        ),
        Row(
            f"{what}: connections, of a database without any",
            f"{connections[1]} of {connections[0]}",
            "none",
            connections[1] <= connections[0],
        ),
        Row(f"{what}: a heartbeat, of one without any", f"{beats:.2f} x", "≤ 1.1", beats <= 1.1),
        flat(f"{what}: another user's turn, of one without any", *turns),
        Row(f"{what}: a look for those that are due", f"{look * 1000:.1f} ms"),
    ]


async def connected(postgres: Postgres, database: str) -> int:
    """How many connections the service has to this database."""
    connection = await asyncpg.connect(postgres.url("postgres", role="postgres"))
    try:
        return int(
            await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", database)
        )
    finally:
        await connection.close()


async def heartbeats(postgres: Postgres, empty: str, full: str) -> tuple[float, float]:
    """A heartbeat beside the waits of one without, by the median of pairs; and the seconds of a look for due waits."""
    databases = [open_database(settings_for(postgres.url(each, role="postgres"))) for each in (empty, full)]
    leases = [Lease(each, Patience(), LEASE_SECONDS) for each in databases]
    pairs = [[await timed(lease.beat) for lease in leases] for _ in range(BEATS)]
    store = turn_store(databases[1])
    look = median([await timed(lambda: store.waits_due(1)) for _ in range(LOOKS)])
    for lease, database in zip(leases, databases, strict=True):
        await lease.release()
        await database.close()
    return median(beside / without for without, beside in pairs[BEATS // 10 :]), look


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began
