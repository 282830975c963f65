"""Health, and what the service says while its database is away or its schema is old."""

import asyncio

import asyncpg

from chatapi.patience import Patience
from tests.support.metrics import scrape
from tests.support.postgres import ROLE, WAITING, Postgres, until
from tests.support.proxy import proxy
from tests.support.serving import Client, anybody, serve, settings_for

NOBODY_THERE = "postgresql://postgres@127.0.0.1:9/chatapi"  # the discard port: nothing listens


async def test_health_tells_the_database_and_the_version(service: str) -> None:
    async with anybody(service) as client:
        response = await client.get("/health")
        assert response.status_code == 200
        assert response.json() == {"status": "ok", "database": "connected", "version": "0.1.0"}
        assert (await client.get("/health/live")).json() == {"status": "alive"}
        assert (await client.get("/health/ready")).json() == {"status": "ready"}


async def test_without_a_database_the_process_lives_and_says_so() -> None:
    async with serve(settings_for(NOBODY_THERE, migrate="off")) as url, Client(url, "alice") as client:
        health = await client.get("/health")
        assert (health.status_code, health.json()["database"]) == (503, "disconnected")
        assert (await client.get("/health/live")).status_code == 200
        for path in ("/health/ready", "/api/alice/tasks", "/api/alice/conversations"):
            response = await client.get(path)
            assert (response.status_code, response.json()["type"]) == (
                503,
                "urn:chatapi:problem:database-unavailable",
            )
            assert int(response.headers["Retry-After"]) >= 1
        assert (await client.chat("say Hello.")).status_code == 503


async def test_an_old_schema_is_503_and_recovers_by_itself(postgres: Postgres) -> None:
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    settings = settings_for(postgres.url(name), migrate="off")
    async with serve(settings) as url, Client(url, "alice") as client:
        for path in ("/health/ready", "/api/alice/tasks"):
            response = await client.get(path)
            assert (response.status_code, response.json()["type"]) == (
                503,
                "urn:chatapi:problem:schema-outdated",
            )
            assert "chatapi database upgrade" in response.json()["detail"]
        assert (await client.get("/health")).status_code == 200
        async with serve(settings_for(postgres.url(name), migrate="auto")):
            pass
        await asyncio.sleep(1.1)
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.get("/api/alice/tasks")).status_code == 200


async def test_a_database_that_comes_late_is_migrated_when_it_does(postgres: Postgres) -> None:
    settings = settings_for(postgres.url("comes_late"))
    async with serve(settings) as url, Client(url, "alice") as client:
        assert (await client.get("/health/ready")).status_code == 503
        await postgres.execute(f"CREATE DATABASE comes_late OWNER {ROLE}")
        while (await client.get("/health/ready")).status_code != 200:  # noqa: ASYNC110 - until it has tried again
            await asyncio.sleep(0.1)
        assert (await client.get("/api/alice/tasks")).status_code == 200


class TestWhileAllConnectionsAreAtWork:
    async def test_a_database_that_answers_is_ready(self, postgres: Postgres) -> None:
        patience = Patience(database_statement=60)  # so long may the test take to look
        name = await asyncio.to_thread(postgres.new_database)
        settings = settings_for(postgres.url(name), db_pool_size=1)
        async with serve(settings, patience=patience) as url, Client(url, "alice") as alice:
            assert (await alice.get(alice.mine("/tasks"))).status_code == 200
            other = await asyncpg.connect(postgres.url(name))
            async with other.transaction():
                await other.execute("LOCK TABLE tasks")
                waiting = asyncio.create_task(alice.get(alice.mine("/tasks")))
                await until(WAITING, other, waiting)
                assert (await alice.get("/health/ready")).json() == {"status": "ready"}
                assert (await alice.get("/health")).json()["database"] == "connected"
                assert not waiting.done()
            await other.close()
            assert (await waiting).status_code == 200

    async def test_a_database_that_does_not_answer_is_found_out(self, postgres: Postgres) -> None:
        name = await asyncio.to_thread(postgres.new_database)
        patience = Patience(database_statement=0.5, database_connect=0.5, database_probe=0.5)
        async with proxy(postgres.port) as between:
            settings = settings_for(postgres.url(name, port=between.port), db_pool_size=1, migrate="off")
            async with serve(settings, patience=patience) as url, Client(url, "alice") as alice:
                while (await alice.get(alice.mine("/tasks"))).status_code != 200:  # noqa: ASYNC110 - on a slow machine
                    await asyncio.sleep(0.1)
                between.blackhole()
                waiting = [asyncio.create_task(alice.get(alice.mine("/tasks"))) for _ in range(8)]
                while (await scrape(url)).get("database_breaker_open") != 1:  # noqa: ASYNC110 - nothing else tells
                    await asyncio.sleep(0.05)
                assert (await alice.get("/health/ready")).status_code == 503
                assert {(await each).status_code for each in waiting} == {503}
