"""A guard against getting slower: how many statements a route sends, which on PostgreSQL are round trips.

Counted and not timed, so that a busy machine fails nothing. BEGIN and COMMIT count. A number that has to grow is changed
here, where it is seen.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from benchmarks.provider import MANNERS, Provider
from chatapi.agent.loading import load_agent
from chatapi.patience import Patience
from tests.support.postgres import ROLE, Postgres
from tests.support.serving import SLOW_MACHINE, Client, serve, settings_for
from tests.support.sse import streamed, text_of
from tests.support.statements import sent_for_requests


class Sends(NamedTuple):
    """How many: on SQLite, on PostgreSQL, and there as a role that is subject to row-level security."""

    sqlite: int
    postgresql: int
    guarded: int


FIRST = {"Idempotency-Key": "first"}
ROUTES: dict[str, tuple[str, str, dict[str, Any], Sends]] = {
    "a turn": ("POST", "/chat", {"json": {"message": "say Hello.", "conversation_id": 1}}, Sends(16, 2, 2)),
    "a first turn": ("POST", "/chat", {"json": {"message": "say Hello."}}, Sends(16, 2, 2)),
    "a turn with a key": (
        "POST",
        "/chat",
        {"json": {"message": "say Hello."}, "headers": {"Idempotency-Key": "second"}},
        Sends(17, 2, 2),
    ),
    "a turn whose model says what it used before a call, too": (
        "POST",
        "/chat",
        {"json": {"message": 'use {"input_tokens": 3}\ncall list_tasks {}'}},
        Sends(22, 4, 4),
    ),
    "a replay": ("POST", "/chat", {"json": {"message": "say 0"}, "headers": FIRST}, Sends(7, 5, 6)),
    "a turn with a tool call": (
        "POST",
        "/chat",
        {"json": {"message": "call list_tasks {}"}},
        Sends(20, 4, 4),
    ),
    "a turn with a call that writes": (
        "POST",
        "/chat",
        {"json": {"message": 'call complete_task {"task_id": 1}'}},
        Sends(20, 6, 7),
    ),
    "a turn with a call that adds": (
        "POST",
        "/chat",
        {"json": {"message": 'call add_task {"title": "y"}'}},
        Sends(21, 6, 7),
    ),
    "a turn with a call of no tool": (
        "POST",
        "/chat",
        {"json": {"message": "call none {}"}},
        Sends(19, 3, 3),
    ),
    "a turn with a call outside": ("POST", "/chat", {"json": {"message": "outside"}}, Sends(22, 4, 4)),
    "conversations": ("GET", "/conversations", {}, Sends(3, 1, 1)),
    "a conversation": ("GET", "/conversations/1", {}, Sends(3, 1, 1)),
    "messages": ("GET", "/conversations/1/messages", {}, Sends(4, 2, 2)),
    "a first title": ("PATCH", "/conversations/1", {"json": {"title": "x"}}, Sends(6, 6, 7)),
    "deleting a conversation": ("DELETE", "/conversations/2", {}, Sends(3, 3, 4)),
    "search": ("GET", "/search?q=say", {}, Sends(4, 2, 2)),
    "feedback": ("PUT", "/messages/2/feedback", {"json": {"rating": "up"}}, Sends(4, 4, 5)),
    "tasks": ("GET", "/tasks", {}, Sends(3, 1, 1)),
    "a task": ("GET", "/tasks/1", {}, Sends(3, 1, 1)),
    "adding a task": ("POST", "/tasks", {"json": {"title": "x"}}, Sends(4, 3, 4)),
    "changing a task": ("PATCH", "/tasks/1", {"json": {"title": "x"}}, Sends(3, 3, 4)),
    "replacing a task": ("PUT", "/tasks/1", {"json": {"title": "x"}}, Sends(3, 3, 4)),
    "completing a task": ("PATCH", "/tasks/1/complete", {}, Sends(3, 3, 4)),
    "deleting a task": ("DELETE", "/tasks/2", {}, Sends(3, 3, 4)),
    "a file": ("GET", "/files/1", {}, Sends(3, 1, 1)),
    "usage": ("GET", "/usage", {}, Sends(3, 1, 1)),
    "keys": ("GET", "/keys", {}, Sends(3, 1, 1)),
    "turns that wait": ("GET", "/turns", {}, Sends(3, 1, 1)),
    "me": ("GET", "/../me", {}, Sends(0, 0, 0)),
}


@pytest.fixture(scope="module", params=Sends._fields)
async def side(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, Client, list[str]]]:
    """A service, a user who has two of everything, and what the service sends."""
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('statements') / 'chatapi.db'}"
    else:
        name = await asyncio.to_thread(postgres.new_database)
        url = postgres.url(name, role=ROLE if request.param == "guarded" else "postgres")
    # Where a heartbeat is late, as on a slow machine, a turn renews the lease itself. And one that is under way for so
    # long is written down, and then has something to forget.
    patience = Patience(lease_renewal=3_600, watch=3_600)
    with sent_for_requests() as sent:
        async with (
            serve(settings_for(url), patience=patience) as base_url,
            Client(base_url, "alice") as alice,
        ):
            await alice.said_with({"headers": FIRST}, "say 0")
            await alice.said("say 0")
            await alice.post(alice.mine("/files"), files={"file": ("a.txt", b"Hello.", "text/plain")})
            for title in ("milk", "bread"):
                await alice.post(alice.mine("/tasks"), json={"title": title})
            yield request.param, alice, sent


@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_sends_no_more_than_it_did(side: tuple[str, Client, list[str]], route: str) -> None:
    kind, alice, sent = side
    method, path, options, sends = ROUTES[route]
    sent.clear()
    response: httpx.Response = await alice.request(method, alice.mine(path), **options)
    await asyncio.sleep(0)  # asyncpg tells of a statement in the loop's next round
    assert response.is_success, response.text
    assert len(ours(sent)) == getattr(sends, kind), "\n".join(sent)


async def test_a_statement_that_is_a_transaction_sets_its_owner(
    side: tuple[str, Client, list[str]],
) -> None:
    """So that row-level security costs it no round trip."""
    kind, alice, sent = side
    sent.clear()
    await alice.said("say Hello.")
    if kind != "sqlite":
        assert [statement.split()[0] for statement in sent] == ["WITH", "WITH"]
        assert all("set_config('chatapi.user_id', $1" in statement for statement in sent)


WAITS = {
    "a turn that waits": Sends(21, 14, 15),
    "some answers": Sends(10, 10, 11),
    "the last answer": Sends(34, 29, 31),
}


async def test_a_turn_that_waits_sends_no_more_than_it_did(side: tuple[str, Client, list[str]]) -> None:
    """The last answer goes on with the turn to its end. The look for due waits is no part of a request."""
    kind, alice, sent = side
    clock = {"name": "time_zone", "parameters": {"type": "object"}}
    body = {"message": "ask time_zone {}\nask time_zone {}\nwait\nsay Done.", "client_tools": [clock]}
    found = []
    sent.clear()
    waiting = (await alice.post(alice.mine("/chat"), json=body)).json()
    for call in waiting["pending"]:
        await asyncio.sleep(0)  # as above
        found.append(len(sent))
        sent.clear()
        answers = {"answers": [{"id": call["id"], "output": "UTC"}]}
        answered = await alice.post(alice.mine(f"/turns/{waiting['turn_id']}/answers"), json=answers)
        assert answered.is_success, answered.text
    await asyncio.sleep(0)
    found.append(len(sent))
    assert dict(zip(WAITS, found, strict=True)) == {name: getattr(each, kind) for name, each in WAITS.items()}


async def test_a_call_that_only_reads_sees_what_is_the_users(side: tuple[str, Client, list[str]]) -> None:
    _, alice, _ = side
    (call,) = (await alice.said("call list_tasks {}"))["tool_calls"]
    assert call["result"]["items"]


@pytest.mark.slow
async def test_streams_of_two_seconds_from_a_provider_send_one_statement_each_half_second_together(
    postgres: Postgres,
) -> None:
    """And each of them one to begin and one to end, however many tokens come."""
    name = await asyncio.to_thread(postgres.new_database)
    model = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
    port = model.sockets[0].getsockname()[1]
    settings = settings_for(
        postgres.url(name),
        chat_model="openai:any",
        openai_base_url=f"http://127.0.0.1:{port}/v1",
        openai_api_key="k",
    )
    with sent_for_requests(and_beside_them=True) as listed:
        async with (
            model,
            serve(settings, load_agent(settings, SLOW_MACHINE)) as base_url,
            Client(base_url, "alice") as alice,
        ):
            await asyncio.gather(*(alice.said("Hello.") for _ in range(3)))
            listed.clear()
            began = asyncio.get_running_loop().time()
            told = await asyncio.gather(*(streamed(alice, "hundred words") for _ in range(3)))
            elapsed = asyncio.get_running_loop().time() - began
            await asyncio.sleep(0)
            sent = listed.copy()  # without what the end of the service sends
    assert [text_of(each) for each in told] == ["".join(MANNERS["hundred"].words)] * 3
    # Without heartbeats, and what a new connection is told.
    sent = [each for each in sent if not each.startswith(("WITH renewed AS (UPDATE workers", "SET "))]
    watched = [each for each in sent if "turn_chunks" in each and "'completed'" not in each]
    assert 1 <= len(watched) <= elapsed // Patience().watch + 1  # one more, where the first comes at once
    assert len(sent) == 3 * 2 + len(watched), "\n".join(sent)


async def test_a_turn_with_budgets_is_few_statements_where_tables_are_distributed(postgres: Postgres) -> None:
    """Of each of its two transactions three are BEGIN, the owner and COMMIT. `test_citus` counts on a real Citus."""
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    settings = settings_for(url, db_kind="citus", budget_tokens="1000000/day,20000000/month")
    told = []
    with sent_for_requests() as sent:
        async with serve(settings) as base_url, Client(base_url, "alice") as alice:
            first = await alice.said("say 0")
            for headers in ({}, FIRST):
                sent.clear()
                await alice.said_with({"headers": headers}, "say 1", first["conversation_id"])
                await asyncio.sleep(0)  # as above
                told.append(ours(sent))
    assert [len(each) for each in told] == [11 + 6, 12 + 6], told


@pytest.mark.parametrize("role", ["postgres", ROLE])
async def test_budgets_cost_no_round_trip(postgres: Postgres, role: str) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    settings = settings_for(
        postgres.url(name, role=role), budget_tokens="1000000/day,20000000/month", rate_limit_chat="off"
    )
    with sent_for_requests() as sent:
        async with serve(settings) as base_url, Client(base_url, "alice") as alice:
            answer = await alice.said("say 0")
            sent.clear()
            await alice.said("say Hello.", answer["conversation_id"])
            await alice.said("say Hello.")
            response = await alice.chat("say Hello.")
    assert [statement.split()[0] for statement in ours(sent)] == ["WITH"] * 6
    assert response.headers["RateLimit"].startswith(
        '"tokens-day";r=999995;t='
    )  # the history, and one word each


async def test_behind_a_pooler_no_statement_is_alone(postgres: Postgres) -> None:
    """In transaction mode it keeps to one server only for the length of a transaction."""
    name = await asyncio.to_thread(postgres.new_database)
    url = postgres.url(name, role="postgres") + "?pgbouncer=true"
    with sent_for_requests() as sent:
        async with serve(settings_for(url)) as base_url, Client(base_url, "alice") as alice:
            await alice.said("say 0")
            sent.clear()
            await alice.said("say Hello.")
    assert [statement.split()[0] for statement in ours(sent)] == ["BEGIN;", "WITH", "COMMIT"] * 2, sent


def ours(sent: list[str]) -> list[str]:
    """Without asyncpg's own, which looks types up once on each connection, with the just-in-time compiler off."""
    return [statement for statement in sent if "'jit'" not in statement and "typeinfo" not in statement]
