#!/usr/bin/env bash
# An open stream of Litestar's takes 3 KiB more than it would on asyncio's own task group, for seeing that its client hangs up.
#
# Seen 2026-11-30: litestar 2.25.0, anyio 4.16.0, Python 3.11.
# `Stream` sends its events in anyio's task group, beside a listener for `http.disconnect`. For as long as it is open it holds two
# cancel scopes with two sets each, the group's set, a handle and its event with a deque. With 3,000 clients that wait for a slow
# model's next word that is 9 MiB.
# One would think that a stream which waits costs its generator and a task.
# Here: src/chatapi/turns/event_stream.py.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check litestar==2.25.0 anyio==4.16.0
cat >seen.py <<'PY'
import asyncio
import tracemalloc

from litestar.response.streaming import ASGIStreamingResponse

OPEN = 500


class OnAsyncio(ASGIStreamingResponse):
    async def send_body(self, send, receive):
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(receive())
            await self._stream(send)
            listening.cancel()


async def silent():
    yield b"a word"
    await asyncio.Event().wait()


async def receive():
    await asyncio.Event().wait()


async def send(message):
    pass


async def each(kind):
    """What each of so many open streams takes, in KiB."""
    tracemalloc.start()
    tasks = [
        asyncio.create_task(kind(iterator=silent(), media_type="text/event-stream")({}, receive, send))
        for _ in range(OPEN)
    ]
    await asyncio.sleep(0.5)
    taken = tracemalloc.get_traced_memory()[0] / OPEN / 1024
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return taken


async def main():
    await each(ASGIStreamingResponse)  # warms up
    litestar, on_asyncio = await each(ASGIStreamingResponse), await each(OnAsyncio)
    print(f"{litestar - on_asyncio:.0f} KiB more than on asyncio's task group")


asyncio.run(main())
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
3 KiB more than on asyncio's task group
SEEN
