"""What is measured. Each scenario compares within one run, a short round of each server in turn, and gives medians."""

import asyncio
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from benchmarks import citus, door, footprint, messages, model_turns, search, servers, streams, waits, window
from benchmarks.load import Report
from benchmarks.measuring import (
    CLIENTS,
    KILOBYTE,
    ROUNDS,
    Row,
    cpu,
    flat,
    interleaved,
    p95,
    rate,
    ratio,
    watched,
)
from benchmarks.page import page_load
from benchmarks.servers import Server, User, cores_apart, load, running
from benchmarks.uploads import uploads
from tests.support.postgres import Postgres


def instant_turns(postgres: Postgres, *, apart: bool) -> list[Row]:
    """Turns a second, an assistant inside the process that answers at once, 32 clients each in a conversation of their own."""
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
    least = 0.35 if apart else 0.6
    for name, reports in (("chatapi", plain), ("with keys", keyed), ("row-level security", second_wall)):
        of_peer, of_limit = ratio(reports, theirs), ratio(reports, by_hand)
        rows += [
            Row(f"{where}: {name}, of FastAPI + SQLModel", f"{of_peer:.2f} x", "≥ 3", of_peer >= 3),
            Row(f"{where}: {name}, of the limit", f"{of_limit:.2f} x", f"≥ {least}", of_limit >= least),
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


def waiting_turns(postgres: Postgres) -> list[Row]:
    """100 and 1,000 turns at once that wait on an assistant inside the process for two seconds, one process, 15 connections."""
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
                report, peak = watched(server, partial(load, server, [user.turn() for user in users], each=1))
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


def small_beside_large(postgres: Postgres) -> list[Row]:
    """A page of a conversation of 20 messages: of a user who has no other one, and of one who has one of 100,000."""
    databases = [servers.migrated(postgres) for _ in range(2)]
    with running(*(servers.chatapi(postgres, database=database) for database in databases)) as sides:
        users = [User("user").begin(server) for server in sides]
        pages = [user.get(f"/conversations/{user.conversation_id}/messages?order=desc") for user in users]
        for user, database in zip(users, databases, strict=True):
            asyncio.run(postgres.execute(fill_conversation(user, 9), database))
        large = User("user").begin(sides[1])
        asyncio.run(postgres.execute(fill_conversation(large, 49_999), databases[1]))
        for database in databases:
            asyncio.run(postgres.execute("VACUUM ANALYZE", database))
        # Many short rounds: the two differ by less than the machine does from one second to the next.
        alone, beside = interleaved(
            [(server, [page]) for server, page in zip(sides, pages, strict=True)], seconds=0.5, rounds=25
        )
    fast = [reports[len(reports) // 2].percentile(0.1) * 1000 for reports in (alone, beside)]
    return [
        flat("a page of 20 messages beside a conversation of 100,000, of one alone", alone, beside),
        Row("the page alone, and beside the large one", f"{fast[0]:.1f} ms, {fast[1]:.1f} ms"),
    ]


def fill_conversation(user: User, turns: int) -> str:
    return f"""
    WITH turn AS (
      INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at,
                         finished_at)
      SELECT '{user.name}', {user.conversation_id}, 'completed', 'filled',
             '{user.name}-{user.conversation_id}-' || n, false, 'filled', now(), now()
      FROM generate_series(1, {turns}) n RETURNING id
    )
    INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
    SELECT '{user.name}', {user.conversation_id}, id, role, 'What was said at length. ' || id, '[]', now()
    FROM turn CROSS JOIN (VALUES ('user'), ('assistant')) AS side (role)
    """


def sqlite_turns(_: Postgres) -> list[Row]:
    """Turns a second on SQLite, an assistant inside the process that answers at once, eight callers."""
    sides = [servers.chatapi(None), servers.limit_sqlite()]
    if servers.before_is_there():
        sides.append(servers.chatapi(None, before=True))
    with running(*sides):
        found = interleaved(
            [(server, [User(f"user-{n}").begin(server).turn() for n in range(8)]) for server in sides]
        )
    ours, limit, *before = found
    rows = [
        Row(
            f"SQLite, 8 callers, turns a second: {server.name}",
            f"{rate(reports):.0f} (p95 {p95(reports) * 1000:.0f} ms; CPU {cpu(reports) * 1000:.1f} ms a turn)",
        )
        for server, reports in zip(sides, found, strict=True)
    ]
    of_limit = ratio(ours, limit)
    rows.append(Row(f"chatapi, of {sides[1].name}", f"{of_limit:.2f} x", "≥ 0.3", of_limit >= 0.3))
    if before:
        times = ratio(ours, before[0])
        rows.append(Row("chatapi, of the version before", f"{times:.1f} x", "≥ 6", times >= 6))
    else:
        rows.append(model_turns.WITHOUT_BEFORE)
    return rows


SCENARIOS: dict[str, Callable[[Postgres], list[Row]]] = {
    "short": model_turns.short_answers,
    "streamed": model_turns.streamed_answers,
    "call": model_turns.turns_with_a_call,
    "budgets": model_turns.budgets,
    "door": door.scenario,
    "trips": model_turns.round_trips,
    "thousand": model_turns.thousand_at_once,
    "open": model_turns.open_streams,
    "sqlite": sqlite_turns,
    "beside": small_beside_large,
    "messages": messages.pages,
    "search": search.scenario,
    "start": footprint.start,
    "memory": footprint.memory,
    "image": footprint.image,
    "uploads": uploads,
    "page": page_load,
    "instant": partial(instant_turns, apart=True),
    "shared": partial(instant_turns, apart=False),
    "others": other_servers,
    "waiting": lambda postgres: [*waiting_turns(postgres), *waits.scenario(postgres)],
    "history": long_histories,
    "window": window.scenario,
    "conversations": many_conversations,
    "streams": streams.scenario,
    "citus": citus.scenario,
}
