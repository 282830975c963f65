"""What is measured. Each scenario compares within one run, a short round of each server in turn, and gives medians."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import NamedTuple

from benchmarks import servers
from benchmarks.load import Report, Sender
from benchmarks.servers import Server, User, cores_apart, load, running
from tests.support.postgres import Postgres

ROUNDS = 5
SECONDS = 3.0
CLIENTS = 32
GROWTH_TURNS = 20_000
KILOBYTE, MEGABYTE = 1_000, 1_000_000


class Row(NamedTuple):
    """A line of the table: what was measured, and what the target says, if there is one."""

    what: str
    value: str
    target: str = ""
    met: bool | None = None


def interleaved(
    sides: Sequence[tuple[Server, Sequence[Sender]]], *, rounds: int = ROUNDS, seconds: float = SECONDS
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


def instant_turns(postgres: Postgres, *, apart: bool) -> list[Row]:
    """Turns a second, an instant assistant, 32 clients each in a conversation of their own."""
    where = "a core of its own" if apart else "cores shared with PostgreSQL"
    if apart and len(os.sched_getaffinity(0)) == 1:
        return [Row(where, "left out: there is only one")]
    with (
        running(
            servers.chatapi(postgres),
            servers.guarded(postgres),
            servers.peer(postgres),
            servers.limit(postgres),
        ) as sides,
        cores_apart(postgres, sides) if apart else nullcontext(),
    ):
        ours, guarded, peer, limit = sides
        users = {
            server: [User(f"user-{number}").begin(server) for number in range(CLIENTS)]
            for server in (ours, guarded, peer, limit)
        }
        plain, keyed, second_wall, theirs, by_hand = interleaved(
            [
                (ours, [user.turn() for user in users[ours]]),
                (ours, [user.turn(keyed=True) for user in users[ours]]),
                (guarded, [user.turn() for user in users[guarded]]),
                (peer, [user.turn() for user in users[peer]]),
                (limit, [user.turn() for user in users[limit]]),
            ]
        )
    rows = [
        Row(
            f"turns a second, {where}: {name}",
            f"{rate(reports):.0f} (p95 {p95(reports) * 1000:.0f} ms; CPU of the process {cpu(reports) * 1000:.2f} ms a turn)",
        )
        for name, reports in (
            ("chatapi", plain),
            ("chatapi, each with an idempotency key", keyed),
            ("chatapi, as a role under row-level security", second_wall),
            ("FastAPI + SQLModel", theirs),
            ("asyncpg by hand", by_hand),
        )
    ]
    for name, reports in (("chatapi", plain), ("with keys", keyed), ("row-level security", second_wall)):
        of_peer, of_limit = ratio(reports, theirs), ratio(reports, by_hand)
        rows += [
            Row(f"{where}: {name}, of FastAPI + SQLModel", f"{of_peer:.2f} x", "≥ 3", of_peer >= 3),
            Row(f"{where}: {name}, of the limit", f"{of_limit:.2f} x", "≥ 0.35", of_limit >= 0.35),
        ]
    return rows


def other_servers(postgres: Postgres) -> list[Row]:
    """Turns a second against other servers that do the job, in conversations of five turns.

    Longer ones would be told of their histories: one reads all of a session for each turn, and one writes it.
    """
    if not servers.OTHERS.exists():
        return [Row("other servers", "left out: they are not installed (`make bench` does)")]
    with running(
        servers.chatapi(postgres),
        servers.other(postgres, "Google ADK's API server", "adk"),
        servers.other(postgres, "Agno's AgentOS", "agno_os"),
    ) as sides:
        ours, adk, agno = sides
        found: dict[Server, list[Report]] = {server: [] for server in sides}
        for number in range(ROUNDS + 1):
            users = [User(f"user-{number}-{client}") for client in range(CLIENTS)]
            for server, senders in (
                (ours, [user.begin(ours).turn() for user in users]),
                (adk, [user.adk_turn() for user in users]),
                (agno, [user.agno_turn() for user in users]),
            ):
                report = load(server, senders, each=5)
                if set(report.statuses) != {"200"}:
                    raise RuntimeError(f"{server.name}: {report.statuses} {report.last_body}")
                if number:  # the first warms up
                    found[server].append(report)
    return [
        Row(
            f"turns a second, five a conversation: {server.name}",
            f"{rate(reports):.0f} (CPU {cpu(reports) * 1000:.1f} ms a turn)",
        )
        for server, reports in found.items()
    ] + [
        Row(f"chatapi, of {server.name}", f"{ratio(found[ours], found[server]):.1f} x")
        for server in (adk, agno)
    ]


def cpu(reports: Sequence[Report]) -> float:
    return median(report.server_cpu / report.requests for report in reports)


def p95(reports: Sequence[Report]) -> float:
    return median(report.percentile(0.95) for report in reports)


def waiting_turns(postgres: Postgres) -> list[Row]:
    """100 and 1,000 turns at once that wait on an assistant of two seconds, one process, 15 connections."""
    rows = []
    with running(
        servers.chatapi(postgres, assistant="slow"), servers.peer(postgres, assistant="slow")
    ) as sides:
        for server in sides:
            warm_up = [User(f"warm-{number}").turn() for number in range(CLIENTS)]
            load(server, warm_up, each=1)
            at_rest = server.memory
            for waiting in (100, 1_000):
                users = [User(f"user-{waiting}-{number}") for number in range(waiting)]
                report, peak = watched(server, partial(load_all, server, users))
                succeeded = report.statuses.get("200", 0)
                late = report.percentile(0.95)
                is_ours = server is sides[0]
                rows.append(
                    Row(
                        f"{server.name}: {waiting} waiting turns",
                        f"{succeeded} succeeded, p95 {late:.2f} s",
                        "all, p95 ≤ 3.5 s" if is_ours else "",
                        (succeeded == waiting and late <= 3.5) if is_ours else None,
                    )
                )
            each = (peak - at_rest) / waiting
            rows.append(
                Row(
                    f"{server.name}: memory of each of 1,000 waiting turns",
                    f"{each / KILOBYTE:.0f} kB",
                    "≤ 100 kB" if is_ours else "",
                    each <= 100 * KILOBYTE if is_ours else None,
                )
            )
    return rows


def load_all(server: Server, users: Sequence[User]) -> Report:
    return load(server, [user.turn() for user in users], each=1)


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


def long_histories(postgres: Postgres) -> list[Row]:
    """A turn in a conversation of 100,000 messages against one in a conversation of 20; a page of it, too."""
    database = servers.migrated(postgres)
    with running(servers.chatapi(postgres, database=database)) as (server,):
        short, long = User("short").begin(server), User("long").begin(server)
        for user, turns in ((short, 9), (long, 49_999)):
            asyncio.run(postgres.execute(fill_conversation(user, turns), database))
        asyncio.run(postgres.execute("ANALYZE", database))
        turns_short, turns_long, page_short, page_long = interleaved(
            [
                (server, [short.turn()]),
                (server, [long.turn()]),
                (server, [short.get(f"/conversations/{short.conversation_id}/messages?order=desc")]),
                (server, [long.get(f"/conversations/{long.conversation_id}/messages?order=desc")]),
            ],
            seconds=2.0,
        )
    return [
        flat("a turn after 100,000 messages, of one after 20", turns_short, turns_long),
        flat("a page of 100,000 messages, of one of 20", page_short, page_long),
    ]


def many_conversations(postgres: Postgres) -> list[Row]:
    """The list of a user with 50,000 conversations against one with ten, and a turn of each."""
    database = servers.migrated(postgres)
    with running(servers.chatapi(postgres, database=database)) as (server,):
        few, many = User("few").begin(server), User("many").begin(server)
        for user, conversations in ((few, 9), (many, 49_999)):
            asyncio.run(
                postgres.execute(
                    f"INSERT INTO conversations (user_id, created_at, updated_at) SELECT '{user.name}', "
                    f"now(), now() - n * interval '1 second' FROM generate_series(1, {conversations}) n",
                    database,
                )
            )
        asyncio.run(postgres.execute("ANALYZE", database))
        list_few, list_many, turn_few, turn_many = interleaved(
            [
                (server, [few.get("/conversations?limit=10")]),
                (server, [many.get("/conversations?limit=10")]),
                (server, [few.turn()]),
                (server, [many.turn()]),
            ],
            seconds=2.0,
        )
    return [
        flat("a list of 50,000 conversations, of one of 10", list_few, list_many),
        flat("a turn of a user with 50,000 conversations, of one with 10", turn_few, turn_many),
    ]


def fill_conversation(user: User, turns: int) -> str:
    return f"""
    WITH turn AS (
      INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at,
                         finished_at)
      SELECT '{user.name}', {user.conversation_id}, 'completed', 'filled', '{user.name}-' || n, false, 'filled',
             now(), now()
      FROM generate_series(1, {turns}) n RETURNING id
    )
    INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
    SELECT '{user.name}', {user.conversation_id}, id, role, 'What was said at length. ' || id, '[]', now()
    FROM turn CROSS JOIN (VALUES ('user'), ('assistant')) AS side (role)
    """


def flat(what: str, small: Sequence[Report], large: Sequence[Report]) -> Row:
    """By the fastest tenth of the answers: one client waits for nobody, and a busy machine is not what is asked for."""
    cost = median(
        there.percentile(0.1) / here.percentile(0.1) for here, there in zip(small, large, strict=True)
    )
    return Row(what, f"{cost:.2f} x", "≤ 1.2", cost <= 1.2)


def growth(postgres: Postgres) -> list[Row]:
    """Memory at rest, and after 20,000 turns more."""
    with running(servers.chatapi(postgres)) as (server,):
        at_rest = server.memory
        users = [User(f"user-{number}").begin(server) for number in range(CLIENTS)]
        senders = [user.turn() for user in users]
        load(server, senders, each=5_000 // CLIENTS)  # caches and pools fill
        before = server.memory
        load(server, senders, each=GROWTH_TURNS // CLIENTS)
        grown = server.memory - before
    return [
        Row("memory at rest", f"{at_rest / MEGABYTE:.0f} MB", "≤ 150 MB", at_rest <= 150 * MEGABYTE),
        Row(
            "growth over 20,000 turns",
            f"{grown / MEGABYTE:+.1f} MB",
            "none (≤ 2 MB)",
            grown <= 2 * MEGABYTE,
        ),
    ]


def start(postgres: Postgres) -> list[Row]:
    """From the command to the first 200 of /health/ready, the tables of chatapi being there."""
    database = servers.migrated(postgres)
    seconds: dict[str, list[float]] = {}
    cpu_seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for make in (partial(servers.chatapi, postgres, database=database), partial(servers.peer, postgres)):
            with running(make()) as (server,):
                seconds.setdefault(server.name, []).append(server.start_seconds)
                cpu_seconds.setdefault(server.name, []).append(server.start_cpu)
    return [
        Row(
            f"{name}: start to ready",
            f"{median(found):.2f} s (CPU {median(cpu_seconds[name]):.2f} s)",
            "≤ 2 s" if name == "chatapi" else "",
            median(found) <= 2 if name == "chatapi" else None,
        )
        for name, found in seconds.items()
    ]


SCENARIOS: dict[str, Callable[[Postgres], list[Row]]] = {
    "instant": partial(instant_turns, apart=True),
    "shared": partial(instant_turns, apart=False),
    "others": other_servers,
    "waiting": waiting_turns,
    "history": long_histories,
    "conversations": many_conversations,
    "memory": growth,
    "start": start,
}
