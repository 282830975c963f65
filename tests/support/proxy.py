"""A TCP proxy on loopback that can misbehave as networks do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

SSL_REQUEST = (80877103).to_bytes(4)


def error_response(sqlstate: str) -> bytes:
    """An error as Neon's proxy writes it, with the severity of an error that a session would survive
    (https://www.postgresql.org/docs/current/protocol-error-fields.html).
    """
    fields = b"SERROR\0" + b"C" + sqlstate.encode() + b"\0Mthe compute cannot be started\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


class Cut(NamedTuple):
    """See `Proxy.cut_at`."""

    query: bytes
    behind: bytes
    for_good: bool


class Proxy:
    """Passes bytes both ways to `target_port`, unless told otherwise."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._refusal: bytes | None = None
        self.delay = 0.0  # seconds, added to each answer
        self._cut_after_query: Cut | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def gone(self, connections: frozenset[asyncio.StreamWriter]) -> None:
        """Wait until both sides know that these connections, which another breaks, are broken."""
        while connections & self.connections:  # noqa: ASYNC110 - connections give no notice
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # the service runs in this loop and hears of it by then, however slow it is

    @property
    def connections(self) -> frozenset[asyncio.StreamWriter]:
        """The connections that are open now."""
        return frozenset(self._writers)

    def blackhole(self) -> None:
        """Swallow everything: connections stay open, and nothing arrives."""
        self._passing.clear()

    def cut(self) -> None:
        """Break all connections and take no new ones."""
        self._refusing = True
        self._break_all()

    def refuse(self, sqlstate: str) -> None:
        """Break all connections, and answer new ones like a PostgreSQL proxy whose database does not start."""
        self._refusal = error_response(sqlstate)
        self._break_all()

    def cut_at(self, query: bytes, *, behind: bytes = b"", for_good: bool = False) -> None:
        """Break one connection, once, just after this query went through: its answer is lost, its effect is not.

        `behind`: only on a connection that has sent this before, since the service's own looks send COMMIT, too.
        With `for_good` break all other connections, too, and take no new ones.
        """
        self._cut_after_query = Cut(query, behind, for_good)

    def heal(self) -> None:
        self._refusing = False
        self._refusal = None
        self._passing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        if self._refusal is not None:
            if SSL_REQUEST in await reader.read(65_536):
                writer.write(b"N")
                await reader.read(65_536)
            writer.write(self._refusal)
            writer.close()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # nobody listens there
            writer.transport.abort()
            return
        if self._refusing:  # it was set meanwhile, so break this connection, too
            writer.transport.abort()
            there_writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        cutting, answered = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_queries(reader, there_writer, cutting, answered))
                both.create_task(self._pass_answers(there_reader, writer, cutting, answered))
        except* OSError:
            pass
        finally:
            for each in (writer, there_writer):
                self._writers.discard(each)
                each.transport.abort()

    async def _pass_queries(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cutting: asyncio.Event,
        answered: asyncio.Event,
    ) -> None:
        due: Cut | None = None  # what this connection waits for
        while data := await reader.read(65_536):
            await self._passing.wait()
            if (cut := self._cut_after_query) is not None and cut.behind in data:
                due = cut
            if due is not None and due is self._cut_after_query and due.query in data:
                self._cut_after_query = None
                cutting.set()
            writer.write(data)
            await writer.drain()
            if due is not None and cutting.is_set():
                await answered.wait()  # the database has carried it out
                if due.for_good:
                    self.cut()
                raise ConnectionAbortedError
        raise ConnectionAbortedError  # one side has closed, so close the other

    async def _pass_answers(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cutting: asyncio.Event,
        answered: asyncio.Event,
    ) -> None:
        while data := await reader.read(65_536):
            await self._passing.wait()
            await asyncio.sleep(self.delay)
            if cutting.is_set():
                answered.set()
            else:
                writer.write(data)
                await writer.drain()
        raise ConnectionAbortedError

    def _break_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def proxy(target_port: int) -> AsyncIterator[Proxy]:
    between = Proxy(target_port)
    server = await asyncio.start_server(between._serve, "127.0.0.1", 0)
    between.port = server.sockets[0].getsockname()[1]
    try:
        yield between
    finally:
        server.close()
        between.heal()
        between._break_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 2)
