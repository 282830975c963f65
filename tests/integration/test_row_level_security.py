"""The second wall: on PostgreSQL, a query that forgot its owner finds nothing, and a row for somebody else is refused."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError

from chatapi.db import models
from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE
from tests.support.databases import open_database
from tests.support.postgres import Postgres
from tests.support.serving import Client, serve, settings_for

TABLES = [models.User, models.Conversation, models.Turn, models.Message, models.ToolCallEntry, models.Task]


@pytest.fixture(scope="module")
async def name(postgres: Postgres) -> str:
    """A database with something of Alice's and something of Bob's in every table."""
    made = await asyncio.to_thread(postgres.new_database)
    async with serve(settings_for(postgres.url(made))) as url:
        for user_id in ("alice", "bob"):
            async with Client(url, user_id) as client:
                await client.said(f'call add_task {{"title": "{user_id}"}}')
    return made


@pytest.fixture
async def database(postgres: Postgres, name: str) -> AsyncIterator[Database]:
    opened = open_database(settings_for(postgres.url(name)))
    yield opened
    await opened.close()


class TestForgottenOwner:
    @pytest.mark.parametrize("table", TABLES)
    async def test_finds_nothing_without_an_owner(self, database: Database, table: type) -> None:
        async with database.transaction(None) as session:
            assert (await session.scalars(select(table))).all() == []

    @pytest.mark.parametrize("table", TABLES)
    async def test_finds_the_owners_rows_alone(self, database: Database, table: type) -> None:
        async with database.transaction("alice") as session:
            found: Sequence[Any] = (await session.scalars(select(table))).all()
        owners = {row.id if isinstance(row, models.User) else row.user_id for row in found}
        assert owners == {"alice"}

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

    async def test_everyone_is_everyone(self, database: Database) -> None:
        async with database.transaction(EVERYONE) as session:
            tasks = (await session.scalars(select(models.Task))).all()
        assert {task.user_id for task in tasks} == {"alice", "bob"}


async def test_every_table_with_an_owner_is_guarded(database: Database) -> None:
    async with database.transaction(None) as session:
        rows = await session.execute(
            text(
                "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = 'public' AND c.relkind = 'r' AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
            )
        )
        assert {name for (name,) in rows} == {"alembic_versions", "workers"}


async def test_a_role_that_bypasses_it_works_as_before(postgres: Postgres, name: str) -> None:
    async with serve(settings_for(postgres.url(name, role="postgres"))) as url:
        user_id = uuid4().hex
        async with Client(url, user_id) as client:
            assert (await client.said("say Hello."))["response"] == "Hello."
            assert (await client.get(client.mine("/tasks"))).json()["items"] == []
