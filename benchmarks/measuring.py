"""How is measured: short rounds of each server in turn within one run, and the median of what they give."""

import asyncio
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.load import Report, Sender
from benchmarks.servers import Server, load

ROUNDS = 5
SECONDS = 3.0
CLIENTS = 32
KILOBYTE, MEGABYTE = 1_000, 1_000_000
KIB, MIB = 1 << 10, 1 << 20


class Row(NamedTuple):
    """A line of the table: what was measured, and what the target says, if there is one."""

    what: str
    value: str
    target: str = ""
    met: bool | None = None


def judged(what: str, value: str, target: str, *, met: bool, ours: bool) -> Row:
    """With the target, if it is ours that was measured."""
    return Row(what, value, target, met) if ours else Row(what, value)


def interleaved(
    sides: Sequence[tuple[Server, Sequence[Sender]]], *, seconds: float = SECONDS, rounds: int = ROUNDS
) -> list[list[Report]]:
    """Reports of each side, a round each in turn; the first round warms up and is dropped."""
    reports: list[list[Report]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for (server, senders), found in zip(sides, reports, strict=True):
            report = load(server, list(senders), seconds=seconds if number else 1.0)
            if set(report.statuses) != {"200"}:
                raise RuntimeError(f"{server.name}: {report.statuses} {report.last_body}")
            if number:
                found.append(report)
    return reports


def rate(reports: Sequence[Report]) -> float:
    return median(report.rate for report in reports)


def ratio(ours: Sequence[Report], theirs: Sequence[Report]) -> float:
    """Of rounds that were next to each other, because the machine's speed changes meanwhile."""
    return median(one.rate / other.rate for one, other in zip(ours, theirs, strict=True))


def cpu(reports: Sequence[Report]) -> float:
    return median(report.server_cpu / report.requests for report in reports)


def p95(reports: Sequence[Report]) -> float:
    return median(report.percentile(0.95) for report in reports)


def cost(ours: Sequence[Report], theirs: Sequence[Report]) -> float:
    """Our CPU a turn, of theirs."""
    return median(
        (one.server_cpu / one.requests) / (other.server_cpu / other.requests)
        for one, other in zip(ours, theirs, strict=True)
    )


def watched(server: Server, work: Callable[[], Report]) -> tuple[Report, int]:
    """What `work` gives, and the most memory that the server had meanwhile."""

    async def watch() -> tuple[Report, int]:
        working = asyncio.create_task(asyncio.to_thread(work))
        most = 0
        while not working.done():
            most = max(most, server.memory)
            await asyncio.sleep(0.05)
        return await working, most

    return asyncio.run(watch())


def flat(what: str, small: Sequence[Report], large: Sequence[Report]) -> Row:
    """By the fastest tenth of the answers: one client waits for nobody, and a busy machine is not what is asked for."""
    cost = median(
        there.percentile(0.1) / here.percentile(0.1) for here, there in zip(small, large, strict=True)
    )
    return Row(what, f"{cost:.2f} x", "≤ 1.2", cost <= 1.2)
