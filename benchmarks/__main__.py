"""`make bench`: everything in one run on one machine, or the scenarios that are named."""

import asyncio
import compileall
import re
import resource
import subprocess
import sys
import time

from benchmarks.measuring import Row
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import REPOSITORY, Server
from tests.support.postgres import Postgres

HEAD = "| measured | found | target | |\n|---|---|---|---|"


def main() -> int:
    names = sys.argv[1:] or list(SCENARIOS)
    if unknown := [name for name in names if name not in SCENARIOS]:
        print(f"There is no {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    # Thousands of clients at once are as many sockets, here and in the servers that inherit this.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # As an installed service has its bytecode; where PYTHONDONTWRITEBYTECODE is set, each start would compile the sources anew.
    compileall.compile_dir(REPOSITORY / "src", quiet=1)
    postgres = Postgres()
    postgres.prepare()
    # Statistics as a database has them that has run for a while: without, plans under row-level security are poor.
    for statement in ("ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"):
        asyncio.run(postgres.execute(statement))
    began = time.monotonic()
    failed = False
    try:
        print(HEAD, flush=True)
        for name in names:
            try:
                rows = SCENARIOS[name](postgres)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                failed = True
                rows = [Row(name, f"failed: {' '.join(str(error).split())[-500:]}")]
            finally:
                for server in Server.started:
                    server.close()
            print(table(rows), flush=True)
    finally:
        postgres.close()
    print("\nWhat ran, each on a database of its own:\n")
    print(
        "\n".join(dict.fromkeys(f"- {server.name}: `{general(server.command)}`" for server in Server.started))
    )
    print(f"\nin {time.monotonic() - began:.0f} s")
    return int(failed)


def general(command: str) -> str:
    """Without the ports, databases and directories of one run."""
    command = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", command)
    return re.sub(r"/test_[0-9a-f]{32}|/tmp/\S+", "/DATABASE", command)


def table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        met = {None: "", True: "met", False: "missed"}[row.met]
        lines.append(f"| {row.what} | {row.value} | {row.target} | {met} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
