"""The load, in a process of its own: keep-alive connections that each send their next request on the last one's answer.

Reads one job of JSON from standard input and writes one report of JSON. Bytes are made before the clock starts and
answers are only counted, so that the client takes a few percent of what any of the servers takes.
"""

import asyncio
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


class Sender(Struct, kw_only=True):
    """One connection: its request, with `{key}` where each gets another idempotency key."""

    head: str
    body: str = ""


class Job(Struct, kw_only=True):
    """For `seconds`, or with `each` so many requests from every sender; all begin at once."""

    port: int
    senders: list[Sender]
    seconds: float | None = None
    each: int | None = None


class Report(Struct, kw_only=True):
    requests: int
    statuses: dict[str, int]
    seconds: float
    latencies: list[float]  # in order; of many, a thousand that stand for them
    last_body: str = ""
    server_cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


class Connection(asyncio.Protocol):
    def __init__(self, request: bytes, job: Job, report: Report) -> None:
        self._parts = request.split(KEY)
        self._job = job
        self._report = report
        self.deadline = float("inf")
        self._numbers = count()
        self._left = job.each if job.each is not None else -1
        self._buffer = b""
        self._sent_at = 0.0
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
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        lower = self._buffer[:head_end].lower()
        at = lower.index(b"content-length:") + 15
        length = int(lower[at : lower.find(b"\r\n", at) if b"\r\n" in lower[at:] else None])
        if len(self._buffer) < head_end + 4 + length:
            return
        now = time.perf_counter()
        status = self._buffer[9:12].decode()
        self._report.statuses[status] = self._report.statuses.get(status, 0) + 1
        self._report.latencies.append(now - self._sent_at)
        body, self._buffer = self._buffer[head_end + 4 :], b""
        if now < self.deadline and self._left != 0:
            self.send()
        else:
            self._report.last_body = body.decode()
            self.done.set_result(None)
            self._transport.close()


def bytes_of(sender: Sender) -> bytes:
    """The request as it is sent."""
    body = sender.body.encode()
    return f"{sender.head}\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def same(connection: Connection) -> Connection:
    return connection


async def run(job: Job) -> Report:
    report = Report(requests=0, statuses=Counter(), seconds=0, latencies=[])
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    for sender in job.senders:
        connection = Connection(bytes_of(sender), job, report)
        await loop.create_connection(partial(same, connection), "127.0.0.1", job.port)
        connections.append(connection)
    began = time.perf_counter()
    if job.seconds is not None:
        for connection in connections:
            connection.deadline = began + job.seconds
    for connection in connections:
        connection.send()
    await asyncio.gather(*(connection.done for connection in connections))
    report.seconds = time.perf_counter() - began
    report.requests = len(report.latencies)
    ordered = sorted(report.latencies)
    report.latencies = [ordered[len(ordered) * part // SAMPLES] for part in range(SAMPLES)] if ordered else []
    return report


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(job))))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
