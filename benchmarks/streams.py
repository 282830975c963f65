"""What open streams of an assistant inside the process cost: memory, the delay of a first word, and the database.

Service processes on a PostgreSQL of their own; this process is their clients, on bare sockets. A minute on an idle
machine. What it found is in docs/performance.md; the last two ratios have been noise so far.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from benchmarks.measuring import Row
from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from chatapi.turns.runner import Runner
from chatapi.turns.store.live import Chunk
from tests.chaos.harness import answers
from tests.support.postgres import Postgres, free_port
from tests.support.serving import SECRET, Process, settings_for, token_for

OPEN = 500
FIRST_WORDS = 100  # a sample
SAMPLES = 5
RUNNING = 100  # turns, for what the database has of them
WORDS_PER_SECOND = 20  # as a model speaks
SECONDS = 10
USERS, TURNS, ROUNDS = 8, 15, 7


WRITTEN = Runner.unwritten


def nothing(_: Runner) -> Chunk | None:
    return None


class Talker:
    """`talk N` says N words a second and never ends. Everything is answered with the moment in which it is.

    After `written no`, what running turns of its process say is not written for readers elsewhere, until `written yes`.
    """

    model = "talker"

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:  # noqa: ARG002 - the port's
        command, _, argument = prompt.message.partition(" ")
        yield TextDelta(str(time.monotonic()))
        if command == "written":
            Runner.unwritten = WRITTEN if argument == "yes" else nothing  # type: ignore[assignment, method-assign]
        while command == "talk":
            await asyncio.sleep(1 / float(argument))
            yield TextDelta(" word")


class Connection:
    """One user's, kept alive."""

    def __init__(self, user_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.user_id = user_id
        self._reader = reader
        self._writer = writer
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, port: int, user_id: str) -> "Connection":
        return cls(user_id, *await asyncio.open_connection("127.0.0.1", port))

    async def first_word(self, message: str) -> float:
        """Begin a stream; how long its first word was on its way, in seconds."""
        self._send(message, "text/event-stream")
        await self._reader.readuntil(b'"delta":"')
        word = await self._reader.readuntil(b'"')
        return time.monotonic() - float(word[:-1])

    def read_on(self) -> None:
        """Take what comes, as a client does."""
        self._reading = asyncio.create_task(self._read_on())

    async def turn(self, message: str = "now") -> None:
        """A turn without a stream."""
        self._send(message, "application/json")
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await self._reader.readuntil(b"}")

    def close(self) -> None:
        if self._reading:
            self._reading.cancel()
        self._writer.close()

    async def _read_on(self) -> None:
        while await self._reader.read(65_536):
            pass

    def _send(self, message: str, accept: str) -> None:
        body = json.dumps({"message": message})
        self._writer.write(
            f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token_for(self.user_id)}\r\n"
            f"Accept: {accept}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )


class Service:
    """A process of the service, and connections to it."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self._port = port
        self._talking: list[Connection] = []

    async def connect(self, user_id: str) -> Connection:
        return await Connection.open(self._port, user_id)

    async def talk(self, number: int, words_per_second: float) -> None:
        """Begin so many turns that do not end, each streamed."""
        for index in range(number):
            connection = await self.connect(f"talker-{index % 50}")
            await connection.first_word(f"talk {words_per_second}")
            connection.read_on()
            self._talking.append(connection)

    async def first_words(self) -> list[float]:
        """Of one user's streams, one after the other, in milliseconds."""
        delays = []
        for _ in range(FIRST_WORDS):
            connection = await self.connect("alice")
            delays.append(1_000 * await connection.first_word("now"))
            connection.close()
        return delays

    async def turns_per_second(self) -> float:
        connections = [await self.connect(f"user-{number}") for number in range(USERS)]

        async def converse(connection: Connection) -> None:
            for _ in range(TURNS):
                await connection.turn()

        began = time.perf_counter()
        await asyncio.gather(*(converse(each) for each in connections))
        seconds = time.perf_counter() - began
        for each in connections:
            each.close()
        return USERS * TURNS / seconds

    def memory(self) -> int:
        """Resident, in bytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        for connection in self._talking:
            connection.close()


@asynccontextmanager
async def service(database_url: str, **environ: str) -> AsyncIterator[Service]:
    settings = {
        "DATABASE_URL": database_url,
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "benchmarks.streams:Talker",
        "CHAT_TIMEOUT": "3600",
        "RATE_LIMIT": "off",
        "RATE_LIMIT_CHAT": "off",
        **environ,
    }
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        async with Process(Path(directory), settings, port=port) as process:
            await answers(f"http://127.0.0.1:{port}")
            served = Service(process, port)
            yield served
            served.close()


async def many_streams(postgres: Postgres) -> list[Row]:
    """In one service, beside another that has but one stream open; they take turns in being measured."""
    alone, among = [], []
    one, other = [postgres.url(await asyncio.to_thread(new_database, postgres)) for _ in range(2)]
    async with service(one) as idle, service(other) as busy:
        await idle.first_words()
        await busy.first_words()
        before = busy.memory()
        await busy.talk(OPEN, 1)
        await asyncio.sleep(2)
        memory = (busy.memory() - before) / OPEN
        for _ in range(SAMPLES):
            alone.append(await idle.first_words())
            among.append(await busy.first_words())
    half, late = ({}, {})
    for name, samples in (("one", alone), ("many", among)):
        half[name] = statistics.median(statistics.median(sample) for sample in samples)
        late[name] = statistics.median(statistics.quantiles(sample, n=20)[18] for sample in samples)
    return [
        Row(
            f"memory of each of {OPEN} open streams",
            f"{memory / 1024:.0f} KiB",
            "≤ 100 kB",
            memory <= 100_000,
        ),
        Row("the first word, one stream open: median, p95", f"{half['one']:.1f} ms, {late['one']:.1f} ms"),
        Row(
            f"the first word, {OPEN} open, a word a second each: median, p95",
            f"{half['many']:.1f} ms, {late['many']:.1f} ms",
            "p95 ≤ 20 ms more",
            late["many"] <= late["one"] + 20,
        ),
    ]


async def database(postgres: Postgres, name: str) -> list[Row]:
    async with service(postgres.url(name)) as served:
        idle = await load(postgres, name)
        await served.talk(RUNNING, WORDS_PER_SECOND)
        await asyncio.sleep(1)
        busy = await load(postgres, name)
    return [
        Row(
            f"{RUNNING} turns running, {WORDS_PER_SECOND} words a second each",
            f"{busy[0] - idle[0]:.1f} transactions a second more than without, "
            f"{(busy[1] - idle[1]) / 1024:.0f} KiB/s of WAL",
        )
    ]


async def load(postgres: Postgres, name: str) -> tuple[float, float]:
    """Transactions and bytes of WAL a second."""
    connection = await asyncpg.connect(postgres.url(name, role="postgres"))
    statement = "SELECT xact_commit, pg_current_wal_lsn() - '0/0' FROM pg_stat_database WHERE datname = current_database()"
    before = await connection.fetchrow(statement)
    await asyncio.sleep(SECONDS)
    after = await connection.fetchrow(statement)
    await connection.close()
    assert before
    assert after
    return (after[0] - before[0]) / SECONDS, float(after[1] - before[1]) / SECONDS


async def throughput(postgres: Postgres) -> list[Row]:
    """Of short turns, in a service without long ones, and beside long ones whose words are written, and are not."""
    one, other = [postgres.url(await asyncio.to_thread(new_database, postgres)) for _ in range(2)]
    rates: dict[str, list[float]] = {"quiet": [], "yes": [], "no": []}
    async with service(one) as quiet, service(other) as busy:
        await quiet.turns_per_second()
        await busy.turns_per_second()
        await busy.talk(RUNNING, WORDS_PER_SECOND)
        for _ in range(ROUNDS):
            rates["quiet"].append(await quiet.turns_per_second())
            for written in ("yes", "no"):
                operator = await busy.connect("operator")
                await operator.turn(f"written {written}")
                operator.close()
                await asyncio.sleep(1)  # what was not written meanwhile is, at once
                rates[written].append(await busy.turns_per_second())

    def ratio(name: str, of: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[name], rates[of], strict=True))

    return [
        Row(f"turns a second beside {RUNNING} long ones, of those without", f"{ratio('yes', 'quiet'):.2f} x"),
        Row(
            "turns a second with what they say written down, of those without", f"{ratio('yes', 'no'):.2f} x"
        ),
    ]


def new_database(postgres: Postgres) -> str:
    name = postgres.new_database()
    upgrade(settings_for(postgres.url(name)), Patience())
    return name


def scenario(postgres: Postgres) -> list[Row]:
    """Open streams of an assistant inside the process: memory, the delay of a first word, and the database."""
    return [
        *asyncio.run(many_streams(postgres)),
        *asyncio.run(database(postgres, new_database(postgres))),
        *asyncio.run(throughput(postgres)),
    ]
