"""The second wall: on PostgreSQL, a query that forgot its owner finds nothing, and a row for somebody else is refused."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db import models
from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE, set_local
from tests.support.citus import Citus
from tests.support.databases import open_database
from tests.support.factories import QueuedTurnFactory, SummaryFactory, WaitFactory
from tests.support.files import uploaded
from tests.support.postgres import Postgres
from tests.support.serving import Client, serve, settings_for

# Each table of users' data with the column of its owner: whatever is added to the models is tested here by itself.
OWNERS = {models.User.__tablename__: "id"} | {
    table.name: "user_id" for table in models.User.metadata.tables.values() if "user_id" in table.columns
}


@pytest.fixture(scope="session", params=["citus"] if Citus.of_environment() else ["postgresql"])
def server(request: pytest.FixtureRequest) -> Postgres | Citus:
    citus = Citus.of_environment()
    return citus or request.getfixturevalue("postgres")


@pytest.fixture(scope="module")
async def name(server: Postgres | Citus) -> str:
    """A database with something of Alice's and something of Bob's in every table; a table without is an error here."""
    made = await asyncio.to_thread(server.new_database)
    settings = settings_for(server.url(made))
    async with serve(settings) as url:
        for user_id in ("alice", "bob"):
            async with Client(url, user_id) as client:
                answer = await client.said(f'call add_task {{"title": "{user_id}"}}')
                await client.put(
                    client.mine(f"/messages/{answer['message_id']}/feedback"), json={"rating": "up"}
                )
                await uploaded(client, b"x")
                await client.post(client.mine("/keys"), json={"name": "key"})
    opened = open_database(settings)
    async with opened.transaction(EVERYONE) as session:
        for turn in (await session.scalars(select(models.Turn))).all():
            chunk = {
                "turn_id": turn.id,
                "run_id": "run",
                "position": 0,
                "user_id": turn.user_id,
                "events": [],
            }
            session.add(models.TurnChunk(**chunk))  # as it is while the turn runs
            ids = {"turn_id": turn.id, "user_id": turn.user_id, "conversation_id": turn.conversation_id}
            session.add(WaitFactory.build(**ids))
            session.add(SummaryFactory.build(number=turn.id, **ids))
            queued = {"user_id": turn.user_id, "conversation_id": turn.conversation_id}
            session.add(QueuedTurnFactory.build(id=turn.id + 1_000, **queued))
    async with opened.transaction(EVERYONE) as session:
        for table in OWNERS:
            assert await owners_in(session, table) == {"alice", "bob"}, f"put a row of each into {table}"
    await opened.close()
    return made


async def owners_in(session: AsyncSession, table: str) -> set[str]:
    return set(await session.scalars(text(f"SELECT {OWNERS[table]} FROM {table}")))


@pytest.fixture
async def database(server: Postgres | Citus, name: str) -> AsyncIterator[Database]:
    opened = open_database(settings_for(server.url(name)))
    yield opened
    await opened.close()


class TestForgottenOwner:
    @pytest.mark.parametrize("table", OWNERS)
    async def test_finds_nothing_without_an_owner(self, database: Database, table: str) -> None:
        async with database.transaction(None) as session:
            assert await owners_in(session, table) == set()

    @pytest.mark.parametrize("table", OWNERS)
    async def test_finds_the_owners_rows_alone(self, database: Database, table: str) -> None:
        async with database.transaction("alice") as session:
            assert await owners_in(session, table) == {"alice"}

    @pytest.mark.parametrize("statement", ["UPDATE tasks SET title = 'x'", "DELETE FROM tasks"])
    async def test_changes_nobody_elses(self, database: Database, statement: str) -> None:
        async with database.transaction("nobody") as session:
            assert (await session.execute(text(f"{statement} RETURNING id"))).all() == []

    async def test_a_row_for_somebody_else_is_refused(self, database: Database) -> None:
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with database.transaction("alice") as session:
                session.add(models.Task(user_id="bob", title="from alice"))

    async def test_the_owner_ends_with_the_transaction(self, database: Database) -> None:
        """One connection after another user's: a pooler in transaction mode does the same."""
        async with database.transaction("alice") as session:
            assert (await session.scalars(select(models.Task))).all()
        async with database.transaction(None) as session:
            assert (await session.scalars(select(models.Task))).all() == []

    async def test_a_keys_hash_shows_its_row_and_changes_nothing(self, database: Database) -> None:
        async with database.transaction("alice") as session:
            key = (await session.scalars(select(models.APIKey))).one()
        async with database.transaction(None) as session:
            await session.execute(set_local("chatapi.key_hash"), {"value_0": key.hash})
            assert (await session.scalars(text("SELECT id FROM api_keys"))).all() == [key.id]
            assert (await session.execute(text("UPDATE api_keys SET name = 'x' RETURNING id"))).all() == []
            assert await owners_in(session, "tasks") == set()

    async def test_a_keys_hash_finds_its_row_by_an_index(self, database: Database) -> None:
        """Whatever the policies add to the query; a table of two rows would be read whole, if it were allowed."""
        async with database.transaction(None) as session:
            await session.execute(text("SET LOCAL enable_seqscan = off"))
            plan = await session.scalars(text("EXPLAIN SELECT user_id FROM api_keys WHERE hash = '0'"))
            assert any("using uq_api_keys_hash" in line for line in plan)

    async def test_everyone_is_everyone(self, database: Database) -> None:
        async with database.transaction(EVERYONE) as session:
            tasks = (await session.scalars(select(models.Task))).all()
        assert {task.user_id for task in tasks} == {"alice", "bob"}


async def test_every_table_with_an_owner_is_guarded(database: Database) -> None:
    """By a policy that holds for the tables' owner, too, who the service's role is, as a rule."""
    async with database.transaction(None) as session:
        guarded = await session.scalars(
            text(
                "SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid "
                "WHERE c.relnamespace = 'public'::regnamespace AND c.relrowsecurity AND c.relforcerowsecurity"
            )
        )
        assert set(guarded) == set(OWNERS)
        tables = set(
            await session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        )
        assert tables - set(OWNERS) == {"alembic_versions", "workers", "search_backfill"}


async def test_a_role_that_bypasses_it_works_as_before(server: Postgres | Citus, name: str) -> None:
    async with serve(settings_for(server.url(name, role="postgres"))) as url:
        user_id = uuid4().hex
        async with Client(url, user_id) as client:
            assert (await client.said("say Hello."))["response"] == "Hello."
            assert (await client.get(client.mine("/tasks"))).json()["items"] == []
