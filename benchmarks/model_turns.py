"""Turns that ask a model by its provider's wire format, as users have them; the model is `benchmarks/provider.py`."""

import asyncio
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import NamedTuple

from benchmarks import servers
from benchmarks.load import Job, Sender, part_of, run
from benchmarks.measuring import CLIENTS, KIB, Row, cost, cpu, interleaved, judged, p95, rate, watched
from benchmarks.servers import Server, User, load, running
from benchmarks.trips import Counter, counting
from tests.support.postgres import Postgres

WITHOUT_BEFORE = Row("the version before", "left out: it is not installed (`make bench` does)")
TURNS, CONVERSATIONS = 24, 4  # the round trips of the turns' median are told
AFTERWARDS_SECONDS = 0.02  # for what is done after the answer
# The others make none. Here all conversations are long, so there is one for five turns.
WITHOUT_SUMMARIES = {"COMPACT": "off"}
OPEN = 3_000
RAMP_SECONDS = 30.0  # within which the streams are opened; each lasts a minute


class Side(NamedTuple):
    """A server, and how it is asked for a turn that is streamed."""

    server: Server
    stream_path: str = "/chat"
    last_event: str = '"type":"finish"'

    def turn(self, name: str, *, manner: str = "", streamed: bool = False, begun: bool = False) -> Sender:
        """Of a user by that name, who has a conversation already or begins one."""
        user = User(name).begin(self.server) if begun else User(name)
        path, expects = (self.stream_path, self.last_event) if streamed else ("/chat", '"response"')
        return user.turn(manner=manner, streamed=streamed, path=path, expects=expects)


def sides_of(
    postgres: Postgres,
    model: Server,
    *,
    ports: Sequence[int] = (),
    before: bool = True,
    timeout: int = 60,
    settings: Mapping[str, str] | None = None,
) -> list[Side]:
    """chatapi and the peer, and the version before where it is there and wanted. `ports` lead to PostgreSQL, too.

    `settings` are chatapi's.
    """
    ours, theirs, earlier = ports or (None, None, None)
    sides = [
        Side(servers.chatapi(postgres, model=model, port=ours, timeout=timeout, settings=settings)),
        Side(
            servers.peer(postgres, model=model, port=theirs),
            stream_path="/chat/stream",
            last_event='"type": "finish"',
        ),
    ]
    if before and servers.before_is_there():
        sides.append(Side(servers.chatapi(postgres, model=model, port=earlier, timeout=timeout, before=True)))
    return sides


def short_answers(postgres: Postgres) -> list[Row]:
    """CPU of a turn whose model answers at once, in one piece, as JSON; 32 callers."""
    return costs(postgres, "a short answer", streamed=False)


def streamed_answers(postgres: Postgres) -> list[Row]:
    """CPU of a turn whose model says 40 tokens, 20 ms apart, streamed; 32 callers."""
    return costs(postgres, "40 tokens streamed", manner="forty", streamed=True)


def turns_with_a_call(postgres: Postgres) -> list[Row]:
    """CPU of a turn whose model calls a tool that writes and then says 40 tokens, 20 ms apart, streamed; 32 callers."""
    return costs(postgres, "add_task and 40 tokens streamed", manner="add", streamed=True)


def costs(postgres: Postgres, what: str, *, streamed: bool, manner: str = "") -> list[Row]:
    with running(servers.the_model()) as (model,):
        sides = [
            *sides_of(postgres, model, settings=WITHOUT_SUMMARIES),
            Side(servers.chatapi(postgres, model=model, name="chatapi, with summaries")),
        ]
        with running(*(side.server for side in sides)):
            found = interleaved(
                [
                    (
                        side.server,
                        [
                            side.turn(f"user-{number}", manner=manner, streamed=streamed, begun=True)
                            for number in range(CLIENTS)
                        ],
                    )
                    for side in sides
                ]
            )
    rows = [
        Row(
            f"{what}: {side.server.name}",
            f"CPU {cpu(reports) * 1000:.2f} ms a turn ({rate(reports):.0f} turns/s, p95 {p95(reports) * 1000:.0f} ms)",
        )
        for side, reports in zip(sides, found, strict=True)
    ]
    ours, peer, *before, with_summaries = found
    rows.append(
        Row(f"{what}: chatapi's CPU with summaries, of that without", f"{cost(with_summaries, ours):.2f} x")
    )
    of_peer = cost(ours, peer)
    rows.append(
        Row(
            f"{what}: chatapi's CPU, of {sides[1].server.name}", f"{of_peer:.2f} x", "≤ 1/3", of_peer <= 1 / 3
        )
    )
    if before:
        of_before = cost(ours, before[0])
        rows.append(
            Row(
                f"{what}: chatapi's CPU, of the version before",
                f"{of_before:.2f} x",
                "≤ 1/5",
                of_before <= 0.2,
            )
        )
    else:
        rows.append(WITHOUT_BEFORE)
    return rows


def budgets(postgres: Postgres) -> list[Row]:
    """CPU of a turn with a short answer that has a price, with two budgets and without; 32 callers."""
    prices = {"MODEL_PRICES": '{"openai:benchmark": {"input": 1, "cached_input": 0.1, "output": 4}}'}
    both = {"BUDGET_TOKENS": "1000000000000/day,1000000000000/month", "BUDGET_COST": "1000000/month"}
    with running(servers.the_model()) as (model,):
        sides = [
            Side(servers.chatapi(postgres, model=model, settings=prices)),
            Side(servers.chatapi(postgres, model=model, settings=prices | both, name="chatapi, budgets")),
        ]
        with running(*(side.server for side in sides)):
            without, with_ = interleaved(
                [
                    (side.server, [side.turn(f"user-{number}", begun=True) for number in range(CLIENTS)])
                    for side in sides
                ]
            )
    ratio = cost(with_, without)
    return [
        Row("a short answer: CPU with budgets, of that without", f"{ratio:.3f} x", "≤ 1.03", ratio <= 1.03)
    ]


def round_trips(postgres: Postgres) -> list[Row]:
    """Round trips to PostgreSQL of a turn, counted on the wire: without a tool and with a call, as JSON and streamed."""
    rows = []
    with ExitStack() as stack:
        (model,) = stack.enter_context(running(servers.the_model()))
        counters = [stack.enter_context(counting(postgres.port)) for _ in range(3)]
        sides = sides_of(postgres, model, ports=[counter.port for counter in counters])
        stack.enter_context(running(*(side.server for side in sides)))
        for what, manner, streamed, target in (
            ("a short answer", "", False, 2),
            ("a short answer, streamed", "", True, 2),
            ("40 tokens in 0.8 s, streamed", "forty", True, 3),
            ("100 tokens in 2 s, streamed", "hundred", True, 6),
            ("one call that reads", "tool", False, 5),
            ("one call that reads, streamed", "tool", True, 5),
            # The call is one more than its effect, which is BEGIN, a statement and COMMIT.
            ("one call that writes and 40 tokens in 0.8 s", "add", False, 7),
            ("one call that writes and 40 tokens in 0.8 s, streamed", "add", True, 7),
        ):
            for side, counter in zip(sides, counters, strict=False):
                trips = trips_of(side, counter, manner=manner, streamed=streamed)
                name, ours = f"round trips, {what}: {side.server.name}", side is sides[0]
                rows.append(judged(name, f"{trips:g}", f"≤ {target}", met=trips <= target, ours=ours))
    return [*rows, *([] if servers.before_is_there() else [WITHOUT_BEFORE])]


def trips_of(side: Side, counter: Counter, *, manner: str, streamed: bool) -> float:
    """The median of turns that come one after the other: whatever a server does every few seconds is in few of them."""
    # Short ones: a long conversation's summary is made beside its turns.
    senders = [
        side.turn(f"trips-{manner}-{streamed}-{number}", manner=manner, streamed=streamed, begun=True)
        for number in range(CONVERSATIONS)
    ]
    trips = []
    for sender in senders * (TURNS // CONVERSATIONS):
        before = counter.trips
        report = asyncio.run(run(Job(port=side.server.port, senders=[sender], each=1)))
        if report.statuses != {"200": 1}:
            raise RuntimeError(f"{side.server.name}: {report.statuses} {report.last_body}")
        time.sleep(AFTERWARDS_SECONDS)
        trips.append(counter.trips - before)
    return median(trips[TURNS // 3 :])  # by then every statement is prepared


def thousand_at_once(postgres: Postgres) -> list[Row]:
    """1,000 turns at once on a model that thinks for two seconds, as JSON and streamed."""
    rows = []
    with running(servers.the_model()) as (model,):
        sides = sides_of(postgres, model)
        with running(*(side.server for side in sides)):
            for streamed in (False, True):
                rows += [thousand(side, streamed=streamed, is_ours=side is sides[0]) for side in sides]
    return [*rows, *([] if servers.before_is_there() else [WITHOUT_BEFORE])]


def thousand(side: Side, *, streamed: bool, is_ours: bool) -> Row:
    warm_up(side, streamed=streamed)
    senders = [
        side.turn(f"user-{streamed}-{number}", manner="wait", streamed=streamed) for number in range(1_000)
    ]
    report = load(side.server, senders, each=1)
    succeeded = report.statuses.pop("200", 0)
    late = report.percentile(0.95)
    return judged(
        f"1,000 turns at once on a model of 2 s, {'streamed' if streamed else 'JSON'}: {side.server.name}",
        f"{succeeded} succeeded{others(report.statuses)}, p95 {late:.2f} s",
        "all, p95 ≤ 4 s",
        met=succeeded == 1_000 and late <= 4,
        ours=is_ours,
    )


def warm_up(side: Side, *, streamed: bool) -> None:
    load(side.server, [side.turn(f"warm-{number}", streamed=streamed) for number in range(CLIENTS)], each=1)


def others(statuses: dict[str, int]) -> str:
    return "".join(f", {number} {status}" for status, number in statuses.items())


def open_streams(postgres: Postgres) -> list[Row]:
    """3,000 streams open at once on a model that says a word every five seconds, begun within half a minute."""
    rows = []
    with running(servers.the_model()) as (model,):
        sides = sides_of(postgres, model, before=False, timeout=600)
        with running(*(side.server for side in sides)):
            for side in sides:
                rows += many_open(side, is_ours=side is sides[0])
    return rows


def many_open(side: Side, *, is_ours: bool) -> list[Row]:
    warm_up(side, streamed=True)
    at_rest = side.server.memory
    senders = [side.turn(f"user-{number}", manner="open", streamed=True) for number in range(OPEN)]
    name = side.server.name
    try:
        report, peak = watched(side.server, partial(load, side.server, senders, each=1, ramp=RAMP_SECONDS))
    except subprocess.TimeoutExpired as late:
        return [
            judged(
                f"{OPEN:,} streams open: {name}",
                f"not done in {late.timeout:.0f} s",
                "all",
                met=False,
                ours=is_ours,
            )
        ]
    succeeded = report.statuses.pop("200", 0)
    each = (peak - at_rest) / OPEN / KIB
    half, most = (1_000 * part_of(report.delays, share) for share in (0.5, 0.95))
    return [
        judged(
            f"{OPEN:,} streams open: {name}",
            f"{succeeded} succeeded{others(report.statuses)}",
            "all",
            met=succeeded == OPEN,
            ours=is_ours,
        ),
        judged(f"memory of each: {name}", f"{each:.0f} KiB", "≤ 60 KiB", met=each <= 60, ours=is_ours),
        judged(
            f"the first word after the model's, median and p95: {name}",
            f"{half:.0f} ms, {most:.0f} ms",
            "p95 ≤ 50 ms",
            met=most <= 50,
            ours=is_ours,
        ),
    ]
