"""What the database's trouble costs callers: connections killed, cut, swallowed, and COMMITs whose outcome is unknown."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from chatapi.conversations.search.backfill import Backfill
from chatapi.db.breaker import FAILURES_TO_ASK
from chatapi.db.failures import is_outage, is_transient
from chatapi.db.models import Conversation, Message, Turn, TurnChunk, UsageDay, User, Worker, now
from chatapi.db.owner import EVERYONE
from chatapi.db.schema import Schema
from chatapi.errors.database import DatabaseUnavailable
from chatapi.patience import Patience
from chatapi.turns.lease import Lease
from chatapi.turns.store import Run, Said, turn_store
from chatapi.turns.supervisor import Supervisor
from chatapi.usage.counting import Spent
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.logs import heard
from tests.support.postgres import ROLE, Postgres
from tests.support.proxy import Proxy, proxy
from tests.support.serving import SLOW_MACHINE, Client, serve, settings_for
from tests.support.sse import chunks_of, streamed, text_of


@asynccontextmanager
async def behind_proxy(
    postgres: Postgres, role: str = ROLE, query: str = "", database: str = "", **changes: Any
) -> AsyncIterator[tuple[Proxy, Client]]:
    """A service whose way to the database can be disturbed, and that may be asked as often as it takes."""
    name = database or await asyncio.to_thread(postgres.new_database)
    async with proxy(postgres.port) as between:
        changes = {"rate_limit": "off", "rate_limit_chat": "off", **changes}
        settings = settings_for(postgres.url(name, port=between.port, role=role) + query, **changes)
        async with serve(settings) as url, Client(url, "alice") as alice:
            yield between, alice


async def until(status: int, alice: Client) -> None:
    for _ in range(1200):
        if (await alice.get("/health/ready")).status_code == status:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the service did not become {status}")


async def terminate_connections(postgres: Postgres, name: str) -> None:
    await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


async def test_killed_idle_connections_cost_nobody_an_error(postgres: Postgres) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    async with behind_proxy(postgres, database=name) as (between, alice):
        await asyncio.gather(*(alice.get(alice.mine("/tasks")) for _ in range(20)))
        for _ in range(3):
            connections = between.connections
            await terminate_connections(postgres, name)
            await between.gone(connections)
            responses = await asyncio.gather(*(alice.get(alice.mine("/tasks")) for _ in range(20)))
            assert {response.status_code for response in responses} == {200}
            await alice.said("say Hello.")


async def test_a_turn_for_which_there_is_no_connection_is_told_so(postgres: Postgres) -> None:
    """What refuses it is not the way to the database, but the database itself: it has too many, or is starting."""
    name = await asyncio.to_thread(postgres.new_database)
    async with (
        serve(settings_for(postgres.url(name), rate_limit_chat="off")) as url,
        Client(url, "alice") as alice,
    ):
        await alice.said("say 0")
        await postgres.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        await terminate_connections(postgres, name)
        watching = await asyncpg.connect(postgres.url("postgres", role="postgres"))
        left = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
        while await watching.fetchval(left, name):  # noqa: ASYNC110 - until they have ended
            await asyncio.sleep(0.01)
        await watching.close()
        refused = await alice.chat("say 1")
        assert (refused.status_code, refused.json()["type"]) == (
            503,
            "urn:chatapi:problem:database-unavailable",
        )
        await postgres.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
        while (await alice.chat("say 2")).status_code != 200:  # noqa: ASYNC110 - until the breaker has asked
            await asyncio.sleep(0.1)


async def test_connections_killed_under_way_are_taken_anew_by_turns(postgres: Postgres) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    async with behind_proxy(postgres, database=name) as (_, alice):

        async def disturb() -> None:
            for _ in range(4):
                await terminate_connections(postgres, name)
                await asyncio.sleep(0.3)
                await until(200, alice)  # with its connections taken anew, before these are killed, too

        turns = [
            alice.chat(f'sleep {number * 0.04}\ncall add_task {{"title": "{number}"}}\nsleep 0.1')
            for number in range(30)
        ]
        responses, _ = await asyncio.gather(asyncio.gather(*turns), disturb())
        done = [response for response in responses if response.status_code == 200]
        assert {response.status_code for response in responses} <= {200, 503}
        assert len(done) >= 15
        titles = [task["title"] for task in (await alice.get(alice.mine("/tasks?limit=100"))).json()["items"]]
        assert len(titles) == len(set(titles))
        told = {call["arguments"]["title"] for response in done for call in response.json()["tool_calls"]}
        assert told <= set(titles)


class TestCommitOfUnknownOutcome:
    """The connection breaks after COMMIT was sent and before its answer came; there is one where a pooler is."""

    @pytest.mark.parametrize(
        "when",
        ["INSERT INTO messages", "INSERT INTO tool_calls", "UPDATE turns SET status"],
        ids=["begin", "tool", "finish"],
    )
    async def test_does_not_double_or_lose_anything(self, postgres: Postgres, when: str) -> None:
        async with behind_proxy(postgres, query="?pgbouncer=true", db_pool_size=1) as (between, alice):
            conversation_id = (await alice.said("say 0"))["conversation_id"]
            gate = CommandedAgent.gates[name := uuid4().hex]
            message = f'gate {name}\ncall add_task {{"title": "milk"}}\ngate {name}2\nsay Done.'
            second = CommandedAgent.gates[f"{name}2"]
            if when == "INSERT INTO messages":
                between.cut_at(b"COMMIT", behind=name.encode())
            turn = asyncio.create_task(alice.chat(message, conversation_id))
            await gate.reached.wait()
            if when == "INSERT INTO tool_calls":
                between.cut_at(b"COMMIT", behind=b"INSERT INTO tool_calls")
            gate.opened.set()
            await second.reached.wait()
            if when == "UPDATE turns SET status":
                between.cut_at(b"COMMIT", behind=b"Done.")
            second.opened.set()
            response = await turn
            assert response.status_code == 200, response.text
            assert between._cut_after_query is None, "the connection was never cut"
            assert response.json()["response"] == "add_task: done. Done."
            assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1
            stored = await alice.messages(conversation_id)
            assert [message["role"] for message in stored] == ["user", "assistant"] * 2
            assert stored[-1]["id"] == response.json()["message_id"]

    async def test_of_items_adds_them_once(self, postgres: Postgres) -> None:
        async with behind_proxy(postgres) as (between, alice):
            one, two = ({"role": "user", "content": uuid4().hex} for _ in range(2))
            between.cut_at(b"COMMIT", behind=one["content"].encode())
            made = (await alice.post("/v1/conversations", json={"items": [one]})).json()["id"]
            assert between._cut_after_query is None, "the connection was never cut"
            route = f"/v1/conversations/{made}/items"
            between.cut_at(b"COMMIT", behind=two["content"].encode())
            added = (await alice.post(route, json={"items": [two]})).json()["data"]
            assert between._cut_after_query is None, "the connection was never cut"
            items = (await alice.get(route)).json()["data"]
            assert [item["content"][0]["text"] for item in items] == [two["content"], one["content"]]
            assert items[:1] == added
            assert len((await alice.get(alice.mine("/conversations"))).json()["items"]) == 1

    async def test_of_a_call_in_an_outage_counts_what_was_used_once(self, postgres: Postgres) -> None:
        """The call's transaction counts it; the turn fails, and its end would count it, too."""
        async with behind_proxy(postgres) as (between, alice):
            conversation_id = (await alice.said("say 0"))["conversation_id"]
            gate = CommandedAgent.gates[name := uuid4().hex]
            use = 'use {"model": "m", "input_tokens": 20, "output_tokens": 4}'
            turn = asyncio.create_task(
                alice.chat(
                    f'{use}\ngate {name}\ncall add_task {{"title": "milk"}}\nsay Done.', conversation_id
                )
            )
            await gate.reached.wait()
            between.cut_at(b"COMMIT", behind=b"milk", for_good=True)
            gate.opened.set()
            assert (await turn).status_code == 503
            between.heal()
            path = alice.mine(f"/conversations/{conversation_id}/messages")
            while (shown := await alice.get(path)).status_code != 200 or "running" in shown.text:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.05)
            assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1
            used = (await alice.get(alice.mine("/usage?by=model"))).json()["items"]
            assert [(each["turns"], each["input_tokens"]) for each in used if each["model"] == "m"] == [
                (1, 20)
            ]

    async def test_of_usage_outside_its_turn_counts_it_once(self, postgres: Postgres) -> None:
        name = await asyncio.to_thread(postgres.new_database)
        run = Run(turn_id=1, run_id="r", user_id="alice", conversation_id=1, message="", history=[])
        spent = Spent(
            input_tokens=20, output_tokens=4, day=now().date(), model="m", cost_picodollars=None, turns=1
        )
        async with proxy(postgres.port) as between:
            database = open_database(settings_for(postgres.url(name, port=between.port)))
            async with database.transaction(EVERYONE) as session:
                session.add(User(id="alice"))
            between.cut_at(b"COMMIT")
            said = Said(events=[], tool_calls=[], spent=[spent])
            await turn_store(database).count_lost(run, said, now())
            async with database.transaction(EVERYONE) as session:
                assert await session.scalar(select(UsageDay.turns)) == 1
            await database.close()


class TestStatementOfUnknownOutcome:
    """The same for a statement that is a transaction by itself: its answer is lost, its effect is not."""

    @pytest.mark.parametrize("role", ["postgres", ROLE])
    @pytest.mark.parametrize("continues", [False, True], ids=["first turn", "next turn"])
    @pytest.mark.parametrize("when", ["begin", "finish"])
    async def test_does_not_double_or_lose_anything(
        self, postgres: Postgres, when: str, role: str, *, continues: bool
    ) -> None:
        async with behind_proxy(postgres, role=role, db_pool_size=1) as (between, alice):
            before = await alice.said("say 0")
            said = uuid4().hex
            # A statement is known by its parameters: the question, or the answer, which the question has in two parts.
            message = f"say {said[:16]}\nsay {said[16:]}"
            between.cut_at(said[:16].encode() + b"\n" if when == "begin" else said.encode())
            response = await alice.chat(message, before["conversation_id"] if continues else None)
            assert response.status_code == 200, response.text
            assert between._cut_after_query is None, "the connection was never cut"
            assert response.json()["response"] == said
            stored = await alice.messages(response.json()["conversation_id"])
            assert [message["content"] for message in stored] == [
                *(["say 0", "0"] if continues else []),
                message,
                said,
            ]
            assert stored[-1]["id"] == response.json()["message_id"]
            listed = (await alice.get(alice.mine("/conversations"))).json()["items"]
            assert len(listed) == (1 if continues else 2)


class TestLostBegin:
    async def test_whose_client_was_told_503_does_not_block_its_conversation(
        self, postgres: Postgres
    ) -> None:
        """It went through all the same, and its process lives: no other may take its turn for abandoned."""
        name = await asyncio.to_thread(postgres.new_database)
        async with (
            proxy(postgres.port) as between,
            serve(
                settings_for(postgres.url(name, port=between.port, role="postgres"), rate_limit_chat="off")
            ) as url,
            Client(url, "alice") as alice,
        ):
            conversation_id = (await alice.said("say 0"))["conversation_id"]
            message, key = f"say {uuid4().hex}", {"Idempotency-Key": uuid4().hex}
            between.cut_at(message.encode(), for_good=True)
            told = await alice.chat(message, conversation_id, headers=key)
            assert (told.status_code, told.json()["type"]) == (
                503,
                "urn:chatapi:problem:database-unavailable",
            )
            running = "DO $$ BEGIN ASSERT (SELECT count(*) FROM turns WHERE status = 'running') = 1; END $$"
            await postgres.execute(running, name)
            between.heal()
            await until(200, alice)
            for _ in range(1_200):
                again = await alice.chat(message, conversation_id, headers=key)
                if again.status_code == 200:
                    break
                await asyncio.sleep(0.05)
            assert again.status_code == 200, again.text
            assert len(await alice.messages(conversation_id)) == 4

    async def test_that_takes_effect_late_is_failed_then_and_no_other_turn_is(
        self, empty_database_url: str
    ) -> None:
        settings = settings_for(empty_database_url)
        database = open_database(settings)
        store = turn_store(database)
        supervisor = Supervisor(store, Patience())
        supervisor.lose("lost")
        await supervisor._watch()
        async with database.transaction(EVERYONE) as session:
            session.add(User(id="alice"))
            await session.flush()
            for number, run_id in enumerate(("lost", "other"), start=1):
                events = [{"type": "TextDelta", "text": "Half"}]
                session.add(Conversation(id=number, user_id="alice"))
                await session.flush()
                session.add(
                    Turn(
                        user_id="alice",
                        conversation_id=number,
                        status="running",
                        worker_id="w",
                        run_id=run_id,
                        model="m",
                    )
                )
                await session.flush()
                session.add(
                    TurnChunk(turn_id=number, run_id=run_id, user_id="alice", position=0, events=events)
                )
        await supervisor._watch()
        async with database.transaction(EVERYONE) as session:
            statuses = await session.execute(select(Turn.run_id, Turn.status))
            assert {tuple(row) for row in statuses} == {("lost", "failed"), ("other", "running")}
            kept = await session.execute(select(Message.turn_id, Message.role, Message.content))
            assert [tuple(row) for row in kept] == [(1, "assistant", "Half")]
            assert (await session.scalars(select(TurnChunk.run_id))).all() == ["other"]
        await database.close()


class TestBreaker:
    async def test_opens_answers_at_once_and_closes_by_itself(self, postgres: Postgres) -> None:
        async with behind_proxy(postgres) as (between, alice):
            await alice.said("say Hello.")
            between.cut()
            await until(503, alice)
            for accept in ("application/json", "application/json", "text/event-stream"):
                response = await alice.chat("say Hello.", headers={"Accept": accept})
                assert (response.status_code, response.json()["type"]) == (
                    503,
                    "urn:chatapi:problem:database-unavailable",
                )
                assert int(response.headers["Retry-After"]) >= 1
            between.heal()
            await until(200, alice)
            for _ in range(600):
                if (await alice.chat("say Hello.")).status_code == 200:
                    break
                await asyncio.sleep(0.1)
            assert (await alice.said("say Hello."))["response"] == "Hello."

    @pytest.mark.slow
    async def test_a_database_that_swallows_everything_costs_the_first_callers_only(
        self, postgres: Postgres
    ) -> None:
        async with behind_proxy(postgres, db_pool_size=2) as (between, alice):
            await alice.said("say Hello.")
            between.blackhole()
            first = await asyncio.gather(*(alice.get(alice.mine("/tasks")) for _ in range(6)))
            assert {response.status_code for response in first} == {503}
            began = asyncio.get_running_loop().time()
            answers = await asyncio.gather(*(alice.get(alice.mine("/tasks")) for _ in range(50)))
            assert {answer.status_code for answer in answers} == {503}
            # Each of them waiting for a time-out of 5 s on two connections would be 125 s.
            assert asyncio.get_running_loop().time() - began < 90
            between.heal()
            await until(200, alice)

    async def test_before_the_schema_was_seen_costs_all_callers_one_time_out(self) -> None:
        """The look counts as an outage, so the breaker opens. The backfill, which looks first, takes it for no defect."""
        tried: list[asyncio.StreamWriter] = []
        async with await asyncio.start_server(
            lambda _, writer: tried.append(writer), "127.0.0.1", 0
        ) as silent:
            port = silent.sockets[0].getsockname()[1]
            settings = settings_for(f"postgresql://alice@127.0.0.1:{port}/chatapi?sslmode=disable")
            patience = replace(SLOW_MACHINE, database_connect=0.1, database_probe=0.1)
            database = open_database(settings, patience)
            schema = Schema(database, settings, patience)
            with heard("chatapi.conversations.search.backfill") as defects:
                backfill = asyncio.create_task(Backfill(database, schema).run())
                await asyncio.sleep(0)
                callers = (schema.ensure_current() for _ in range(6))
                told = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(each) for each in told} == {TimeoutError}
            assert len(tried) <= 1
            assert defects == []
            for _ in range(FAILURES_TO_ASK):
                with pytest.raises((TimeoutError, DatabaseUnavailable)):
                    await Schema(database, settings, patience).ensure_current()
            while not database.breaker.is_open:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
            with pytest.raises(DatabaseUnavailable):
                await Schema(database, settings, patience).ensure_current()
            backfill.cancel()
            await database.close()
            for writer in tried:
                writer.close()


class TestTurnDuringAnOutage:
    @pytest.mark.parametrize("sqlstate", [None, "XX000", "08P01", "53300", "57P03", "42000"])
    async def test_keeps_its_answer_until_the_database_is_back(
        self, postgres: Postgres, sqlstate: str | None
    ) -> None:
        """Whether there is nothing to connect to, or something in between that refuses by a code of its own."""
        async with behind_proxy(postgres) as (between, alice):
            headers = {"Idempotency-Key": uuid4().hex}
            gate = CommandedAgent.gates[name := uuid4().hex]
            message = f"gate {name}\nsay Done."
            turn = asyncio.create_task(alice.chat(message, headers=headers))
            await gate.reached.wait()
            if sqlstate is None:
                between.cut()
            else:
                between.refuse(sqlstate)
            with heard("") as lines:
                gate.opened.set()
                told = await turn
            assert not [line for line in lines if "defect" in line]
            assert (told.status_code, told.json()["type"]) == (
                503,
                "urn:chatapi:problem:database-unavailable",
            )
            assert told.json()["turn_id"]
            between.heal()
            await until(200, alice)
            for _ in range(600):
                again = await alice.chat(message, headers=headers)
                if again.status_code == 200:
                    break
                assert again.status_code in {409, 503}
                await asyncio.sleep(0.1)
            assert (again.json()["response"], again.json()["turn_id"]) == ("Done.", told.json()["turn_id"])
            assert again.headers["Idempotent-Replayed"] == "true"
            assert len(await alice.messages(again.json()["conversation_id"])) == 2


async def test_a_completion_of_which_nothing_is_stored_is_answered_without_the_database(
    postgres: Postgres,
) -> None:
    async with behind_proxy(postgres) as (between, alice):
        gate = CommandedAgent.gates[name := uuid4().hex]
        message = {"role": "user", "content": f'gate {name}\nuse {{"input_tokens": 7}}\nsay Done.'}
        body = {"model": "commanded", "messages": [message]}
        completion = asyncio.create_task(alice.post("/v1/chat/completions", json=body))
        await gate.reached.wait()
        between.cut()
        with heard("chatapi.turns.stateless") as lines:
            gate.opened.set()
            told = await completion
        assert told.json()["choices"][0]["message"]["content"] == "Done."
        assert [line for line in lines if "is not counted" in line]


async def test_a_violated_foreign_key_is_no_outage(postgres: Postgres) -> None:
    """What a row hangs on was erased by another request; the database is well."""
    settings = settings_for(postgres.url(await asyncio.to_thread(postgres.new_database)))
    database = open_database(settings)
    for _ in range(FAILURES_TO_ASK):
        with pytest.raises(IntegrityError) as violated:
            async with database.transaction("nobody") as session:
                session.add(Conversation(user_id="nobody"))
        assert is_transient(violated.value)
        assert not is_outage(violated.value)
    assert database.breaker._probing is None
    await database.close()


async def test_a_client_that_is_gone_does_not_keep_others_from_the_pool(postgres: Postgres) -> None:
    async with behind_proxy(postgres, db_pool_size=1) as (_, alice):
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                await alice.chat(f"gate {uuid4().hex}", timeout=httpx.Timeout(60, read=0.05))
        assert (await alice.get(alice.mine("/tasks"))).status_code == 200


async def test_a_process_keeps_its_lease_where_others_wait_in_line_for_connections(
    postgres: Postgres,
) -> None:
    """The line may be longer than a lease, as after an outage, and others would take this process's turns for dead."""
    settings = settings_for(postgres.url(await asyncio.to_thread(postgres.new_database)), db_pool_size=1)
    database = open_database(settings, replace(SLOW_MACHINE, database_pool=1))
    lease = Lease(database, SLOW_MACHINE, 60)
    await lease.beat()
    async with database.transaction(None) as session:
        await session.execute(text("SELECT 1"))
        await lease.beat()
    await database.close()


async def test_a_lease_that_is_taken_several_times_at_once_is_one(new_database: Callable[[], str]) -> None:
    """As by the heartbeat and by a process's first turn."""
    database = open_database(settings_for(await asyncio.to_thread(new_database)))
    lease = Lease(database, SLOW_MACHINE, 60)
    await asyncio.gather(*(lease.beat() for _ in range(5)))
    async with database.transaction(None) as session:
        assert await session.get(Worker, lease.id) is not None
    await database.close()


class TestStream:
    async def test_of_a_turn_elsewhere_outlives_the_databases_absence(self, postgres: Postgres) -> None:
        """The turn runs in one replica; the other, which streams it, loses the database and gets it back."""
        gate = uuid4().hex
        waits = CommandedAgent.gates[gate]
        name = await asyncio.to_thread(postgres.new_database)
        async with (
            proxy(postgres.port) as between,
            serve(settings_for(postgres.url(name))) as one,
            serve(settings_for(postgres.url(name, port=between.port))) as other,
            Client(one, "alice") as here,
            Client(other, "alice") as there,
        ):
            turn = asyncio.create_task(streamed(here, f"say Hel\ngate {gate}\nsay lo."))
            await waits.reached.wait()
            async with there.stream("GET", there.mine("/chat/1/stream")) as response:
                chunks = chunks_of(response)
                seen = [await anext(chunks)]
                while text_of(seen) != "Hel":
                    seen.append(await anext(chunks))
                between.cut()
                await until(503, there)
                waits.opened.set()
                whole = await turn
                between.heal()
                seen += [chunk async for chunk in chunks]
            assert (text_of(seen), seen[-1]) == ("Hello.", whole[-1])
