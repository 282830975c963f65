"""Files of 10 MiB, sent one after another and fifty at once: how much memory they take."""

import asyncio

import httpx

from benchmarks import servers
from benchmarks.measuring import MIB, Row
from benchmarks.servers import Server, User, running
from tests.support.postgres import Postgres

CONTENT = b"milk and bread\n" * (10 * MIB // 15)
AT_ONCE = 50
FIRST_MIB, EACH_MIB = 2.0, 2.0


def uploads(postgres: Postgres) -> list[Row]:
    """Into a folder; an upload waits for a moment in a file of the disk, and a bucket is sent 5 MiB at a time from there."""
    with running(servers.chatapi(postgres, assistant="offline")) as (server,):
        asyncio.run(send(server, 1))  # what is imported and opened once
        one = asyncio.run(grown(server, 1))
        each = asyncio.run(grown(server, AT_ONCE)) / AT_ONCE
    return [
        Row("memory of an upload of 10 MiB", f"{one:+.1f} MiB", f"≤ {FIRST_MIB:g} MiB", one <= FIRST_MIB),
        Row(
            f"memory of each of {AT_ONCE} uploads at once",
            f"{each:+.2f} MiB",
            f"≤ {EACH_MIB:g} MiB",
            each <= EACH_MIB,
        ),
    ]


async def grown(server: Server, count: int) -> float:
    """MiB between the memory before and its peak meanwhile."""
    before = server.memory
    server.forget_peak()
    await send(server, count)
    return (server.peak_memory - before) / MIB


async def send(server: Server, count: int) -> None:
    user = User("uploader")
    url = f"http://127.0.0.1:{server.port}/api/{user.name}/files"
    async with httpx.AsyncClient(headers=user.authorization, timeout=120) as client:
        form = {"file": ("list.txt", CONTENT)}
        for response in await asyncio.gather(*(client.post(url, files=form) for _ in range(count))):
            response.raise_for_status()
