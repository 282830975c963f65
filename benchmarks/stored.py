"""What a turn leaves in PostgreSQL: rows and bytes by table, bytes of the write-ahead log, transaction ids.

The bytes are those of the text and what we add to it. They are the same on any machine.
"""

import asyncio
from typing import NamedTuple

import asyncpg

from tests.support.serving import Client

USERS = 16
CONVERSATIONS = 5
TURNS = 20
TEXT = "It would rain for a week, and nobody had thought of milk. "  # 58 bytes
TEXTS = 9  # of these in a question, and in its answer: a kilobyte a turn

ROWS = """
SELECT relname, n_live_tup FROM pg_stat_user_tables ORDER BY relname
"""
SIZES = """
SELECT relname, pg_table_size(oid) AS rows, pg_indexes_size(oid) AS indexes FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
LOG = "SELECT pg_current_wal_insert_lsn() - '0/0'"
NEXT_ID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


class Stored(NamedTuple):
    """A table's rows, their bytes and those of the indexes, for each turn."""

    table: str
    rows: float
    bytes: float
    indexes: float


class Written(NamedTuple):
    """Of each turn: what is stored, bytes of the log at least and at most, and transaction ids."""

    tables: list[Stored]
    log: float
    log_at_most: float
    log_compressed: float  # the most with `wal_compression`
    ids: float


async def fill(url: str, user: int) -> None:
    async with Client(url, f"writes-{user}") as client:
        for _ in range(CONVERSATIONS):
            conversation_id = None
            for turn in range(TURNS):
                message = f"say {turn} {TEXT * TEXTS}"
                conversation_id = (await client.said(message, conversation_id))["conversation_id"]


async def written(url: str, database_url: str) -> Written:
    """Let users talk in the empty database of the service at `url`, and look what is there then.

    The log is shortest when all pages are in it already, as in this run. It is longest when each page that a turn changes
    is the first time in it since a checkpoint, as in a database that is much larger than what is written between two.
    """
    connection = await asyncpg.connect(database_url)
    async with Client(url, "first") as client:
        await client.said("say Hello.")
    await connection.execute("CHECKPOINT")
    log, first_id = await connection.fetchval(LOG), await connection.fetchval(NEXT_ID)
    await asyncio.gather(*(fill(url, user) for user in range(USERS)))
    turns = USERS * CONVERSATIONS * TURNS
    least = (await connection.fetchval(LOG) - log) / turns
    ids = (await connection.fetchval(NEXT_ID) - first_id) / turns
    await connection.execute("VACUUM FULL ANALYZE")
    rows = {row["relname"]: row["n_live_tup"] for row in await connection.fetch(ROWS)}
    sizes = await connection.fetch(SIZES)
    tables = [
        Stored(name, rows[name] / turns, table / turns, indexes / turns)
        for name, table, indexes in sorted(sizes)
        if rows[name] > turns / (2 * TURNS)
    ]
    most = {}
    for compression in ("off", "pglz"):
        await connection.execute(f"ALTER SYSTEM SET wal_compression = {compression}")
        await connection.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(1)  # until all sessions have heard of it
        most[compression] = await logged_at_most(url, connection)
    await connection.close()
    return Written(tables, least, most["off"], most["pglz"], ids)


async def logged_at_most(url: str, connection: asyncpg.Connection) -> float:
    most = 0
    for user in range(USERS):
        async with Client(url, f"writes-{user}") as client:
            conversation_id = (await client.get(client.mine("/conversations"))).json()["items"][0]["id"]
            await connection.execute("CHECKPOINT")
            log = await connection.fetchval(LOG)
            await client.said(f"say {TEXT * TEXTS}", conversation_id)
            most += await connection.fetchval(LOG) - log
    return most / USERS
