"""What row-level security costs a turn: the same service twice, as a role that is subject to it and as one that is not.

Interleaved in one process, an instant assistant, eight users at once:

    .venv/bin/python -m benchmarks.row_level_security
"""

import asyncio
import statistics
import time

from tests.support.postgres import ROLE, Postgres
from tests.support.serving import Client, serve, settings_for

ROUNDS = 7
USERS = 8
TURNS = 12


async def converse(url: str, user_id: str) -> None:
    async with Client(url, user_id) as client:
        conversation_id = (await client.said("say 0"))["conversation_id"]
        for _ in range(TURNS - 1):
            await client.said("say Hello.", conversation_id)


async def measure(postgres: Postgres, database: str) -> dict[str, list[float]]:
    """Turns a second, a round each."""
    found: dict[str, list[float]] = {ROLE: [], "postgres": []}
    unlimited = {"rate_limit": "off", "rate_limit_chat": "off"}
    async with (
        serve(settings_for(postgres.url(database), **unlimited)) as guarded,
        serve(settings_for(postgres.url(database, role="postgres"), **unlimited)) as bypassing,
    ):
        for number in range(ROUNDS):
            for role, url in ((ROLE, guarded), ("postgres", bypassing)):
                began = time.perf_counter()
                await asyncio.gather(*(converse(url, f"{role}-{number}-{user}") for user in range(USERS)))
                found[role].append(USERS * TURNS / (time.perf_counter() - began))
    return found


def main() -> None:
    postgres = Postgres()
    postgres.prepare()
    try:
        found = asyncio.run(measure(postgres, postgres.new_database()))
    finally:
        postgres.close()
    ratios = [guarded / bypassing for guarded, bypassing in zip(found[ROLE], found["postgres"], strict=True)]
    print(f"turns a second with it, of those without: {statistics.median(ratios):.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
