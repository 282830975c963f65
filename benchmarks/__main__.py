"""`make bench`: everything in one run on one machine, or the scenarios that are named."""

import asyncio
import resource
import sys
import time

from benchmarks import streams
from benchmarks.scenarios import SCENARIOS, Row
from tests.support.postgres import Postgres

HEAD = "| measured | found | target | |\n|---|---|---|---|"


def main() -> None:
    names = sys.argv[1:] or list(SCENARIOS)
    # A thousand clients at once are a thousand sockets, here and in the servers that inherit this.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    postgres = Postgres()
    postgres.prepare()
    # Statistics as a database has them that has run for a while: without, plans under row-level security are poor.
    for statement in ("ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"):
        asyncio.run(postgres.execute(statement))
    began = time.monotonic()
    try:
        print(HEAD, flush=True)
        for name in names:
            print(table(SCENARIOS[name](postgres)), flush=True)
    finally:
        postgres.close()
    if names == list(SCENARIOS):
        streams.main()
    print(f"\nin {time.monotonic() - began:.0f} s")


def table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        met = {None: "", True: "met", False: "missed"}[row.met]
        lines.append(f"| {row.what} | {row.value} | {row.target} | {met} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
