"""`make bench`: everything in one run on one machine, or the scenarios that are named."""

import resource
import sys
import time

from benchmarks.scenarios import SCENARIOS, Row
from tests.support.postgres import Postgres


def main() -> None:
    names = sys.argv[1:] or list(SCENARIOS)
    # A thousand clients at once are a thousand sockets, here and in the servers that inherit this.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    postgres = Postgres()
    postgres.prepare()
    began = time.monotonic()
    try:
        rows = [row for name in names for row in SCENARIOS[name](postgres)]
    finally:
        postgres.close()
    print(table(rows))  # noqa: T201
    print(f"\nin {time.monotonic() - began:.0f} s")  # noqa: T201


def table(rows: list[Row]) -> str:
    lines = ["| measured | found | target | |", "|---|---|---|---|"]
    for row in rows:
        met = {None: "", True: "met", False: "missed"}[row.met]
        lines.append(f"| {row.what} | {row.value} | {row.target} | {met} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
