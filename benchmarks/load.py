"""The load, in a process of its own: keep-alive connections that each send their next request on the last one's answer.

Reads one job of JSON from standard input and writes one report of JSON. Bytes are made before the clock starts and
answers are only counted, so that the client takes a few percent of what any of the servers takes. An answer has a length
or, as a stream, HTTP's chunks.
"""

import asyncio
import re
import sys
import time
from collections import Counter
from functools import partial
from itertools import count
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

KEY = b"{key}"
SAMPLES = 1_000
LAST_CHUNK = b"0\r\n\r\n"
MOMENT = re.compile(rb"@(\d+\.\d+)@")  # when a model's server sent its first word (benchmarks/provider.py)


class Sender(Struct, kw_only=True):
    """One connection: its request, with `{key}` where each gets another idempotency key.

    An answer without `expects` in it counts as unfinished.
    """

    head: str
    body: str = ""
    expects: str = ""


class Job(Struct, kw_only=True):
    """For `seconds`, or with `each` so many requests from every sender; all begin at once, or one after the other
    within `ramp` seconds.
    """

    port: int
    senders: list[Sender]
    seconds: float | None = None
    each: int | None = None
    ramp: float = 0.0


class Report(Struct, kw_only=True):
    requests: int
    statuses: dict[str, int]
    seconds: float
    latencies: list[float]  # in order; of many, a thousand that stand for them
    delays: list[float] = []  # of first words that say when they were sent, likewise
    last_body: str = ""
    server_cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        return part_of(self.latencies, share)


def part_of(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Connection(asyncio.Protocol):
    def __init__(self, sender: Sender, job: Job, report: Report) -> None:
        self._parts = bytes_of(sender).split(KEY)
        self._expects = sender.expects.encode()
        self._report = report
        self.deadline = float("inf")
        self._numbers = count()
        self._left = job.each if job.each is not None else -1
        self._sent_at = 0.0
        self._word_is_due = True
        self._forget_answer()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self._report.statuses["lost"] = self._report.statuses.get("lost", 0) + 1
            self.done.set_result(None)

    def send(self) -> None:
        self._left -= 1
        self._sent_at = time.perf_counter()
        key = (
            b"" if len(self._parts) == 1 else b"%x-%d" % (id(self) ^ time.monotonic_ns(), next(self._numbers))
        )
        self._transport.write(key.join(self._parts))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._body_at and not self._read_head():
            return
        if self._word_is_due and (sent := MOMENT.search(data)):
            self._word_is_due = False
            self._report.delays.append(time.monotonic() - float(sent[1]))
        if len(self._buffer) < self._length if self._length else not data.endswith(LAST_CHUNK):
            return
        now = time.perf_counter()
        status = self._buffer[9:12].decode()
        body = bytes(self._buffer[self._body_at :])
        self._forget_answer()
        if self._expects not in body:
            status += ", unfinished"
        self._report.statuses[status] = self._report.statuses.get(status, 0) + 1
        self._report.latencies.append(now - self._sent_at)
        if now < self.deadline and self._left != 0:
            self.send()
        else:
            self._report.last_body = body.decode()
            self.done.set_result(None)
            self._transport.close()

    def _forget_answer(self) -> None:
        self._buffer = bytearray()
        self._body_at = 0
        self._length = 0  # of head and body; 0: the body comes in chunks
        self._word_is_due = True

    def _read_head(self) -> bool:
        """Whether the head is there: then it says where the body begins and, unless it comes in chunks, ends."""
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        self._body_at = head_end + 4
        lower = self._buffer[: head_end + 2].lower()
        at = lower.find(b"content-length:")
        self._length = 0 if at < 0 else self._body_at + int(lower[at + 15 : lower.index(b"\r\n", at)])
        return True


def bytes_of(sender: Sender) -> bytes:
    """The request as it is sent."""
    body = sender.body.encode()
    return f"{sender.head}\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def same(connection: Connection) -> Connection:
    return connection


async def run(job: Job) -> Report:
    report = Report(requests=0, statuses=Counter(), seconds=0, latencies=[])
    loop = asyncio.get_running_loop()

    async def opened(sender: Sender) -> Connection:
        connection = Connection(sender, job, report)
        await loop.create_connection(partial(same, connection), "127.0.0.1", job.port)
        return connection

    connections: list[Connection] = []
    began = time.perf_counter()
    if job.ramp:
        for number, sender in enumerate(job.senders):
            await asyncio.sleep(began + job.ramp * number / len(job.senders) - time.perf_counter())
            connections.append(await opened(sender))
            connections[-1].send()
    else:
        connections = [await opened(sender) for sender in job.senders]
        began = time.perf_counter()
        for connection in connections:
            connection.deadline = began + job.seconds if job.seconds is not None else float("inf")
            connection.send()
    await asyncio.gather(*(connection.done for connection in connections))
    report.seconds = time.perf_counter() - began
    report.requests = len(report.latencies)
    report.latencies = sample(report.latencies)
    report.delays = sample(report.delays)
    return report


def sample(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[len(ordered) * part // SAMPLES] for part in range(SAMPLES)] if ordered else []


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(job))))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
