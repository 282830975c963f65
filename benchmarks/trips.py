"""Round trips to PostgreSQL, counted on the wire, so that every server is counted alike.

A proxy between a server and PostgreSQL reads the client's messages: it waits for an answer after each Query, Sync and
Flush (https://www.postgresql.org/docs/current/protocol-flow.html).
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AWAITED = b"QSH"
SSL_REQUEST = (8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")


class Counter:
    """Counts what passes to PostgreSQL by way of `port`."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.trips = 0
        self._target = target
        self.connections: dict[asyncio.StreamReader, tuple[asyncio.StreamWriter, ...]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(pass_on(there_reader, writer))
        self.connections[reader] = (writer, there_writer)
        try:
            await self._count(reader, there_writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            there_writer.close()
            await asyncio.wait([answers])
        finally:
            del self.connections[reader]

    def break_all(self) -> None:
        for reader, writers in self.connections.items():
            reader.feed_eof()
            for writer in writers:
                writer.transport.abort()

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = False
        while True:
            # The first messages, before the server knows the client, have no type.
            kind = await reader.readexactly(1) if began else b""
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length, "big") - 4)
            self.trips += kind in AWAITED if kind else 0
            began = began or length + body != SSL_REQUEST
            writer.write(kind + length + body)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()  # a client that says good-bye waits for it


@contextmanager
def counting(target: int) -> Iterator[Counter]:
    """In a thread with a loop of its own, so that it may be used beside a loop or without one."""
    counter = Counter(target)
    began, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(counter.serve, "127.0.0.1", 0)
        counter.port = server.sockets[0].getsockname()[1]
        began.set()
        await ended.wait()
        server.close()
        counter.break_all()
        while counter.connections:  # noqa: ASYNC110 - their tasks end in a moment
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    began.wait()
    try:
        yield counter
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
