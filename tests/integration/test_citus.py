"""Statements that do on Citus: by reading them everywhere, and where there is a real Citus by running them beside it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from advanced_alchemy.alembic.commands import AlembicCommands
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import Pool

from chatapi.db.database import Database
from chatapi.db.engine import database_config
from chatapi.db.failures import is_outage
from chatapi.db.models import User
from chatapi.db.owner import Owner
from chatapi.db.placing import place_new
from chatapi.db.schema import upgrade
from chatapi.db.services import remember_user
from chatapi.errors.database import DatabaseUnavailable
from chatapi.patience import Patience
from chatapi.tracing import Tracing
from chatapi.turns.lease import Lease
from tests.support import citus_watch
from tests.support.citus import Citus
from tests.support.citus_rules import (
    APART,
    INSERT_SELECT,
    IS_VOLATILE,
    LOCKS_ALL,
    MODIFYING_CTE,
    NO_OWNER,
    schema_fault,
    verdict,
)
from tests.support.databases import open_database, unread_metrics
from tests.support.files import uploaded
from tests.support.postgres import Postgres
from tests.support.serving import (
    REPOSITORY,
    SECRET,
    SLOW_MACHINE,
    Client,
    anybody,
    clean_environ,
    serve,
    settings_for,
)

FINE = None
# Statements of the user `u` and what is wrong with them.
STATEMENTS = {
    "SELECT id FROM turns WHERE user_id = 'u' AND id = 1": FINE,
    "SELECT id FROM turns WHERE id = 1": NO_OWNER,
    "SELECT id FROM turns WHERE user_id = 'u' OR id = 1": NO_OWNER,
    "SELECT t.id FROM messages m JOIN turns t ON t.id = m.turn_id AND t.user_id = m.user_id WHERE m.user_id = 'u'": FINE,
    "SELECT t.id FROM messages m JOIN turns t ON t.id = m.turn_id WHERE m.user_id = 'u'": APART,
    "SELECT t.id FROM messages m JOIN turns t ON t.id = m.turn_id WHERE m.user_id = 'u' "
    "AND t.user_id = 'u' COLLATE \"C\"": FINE,
    "SELECT id FROM turns WHERE user_id = 'u' AND (SELECT m.id FROM messages m WHERE m.turn_id = turns.id "
    "AND m.user_id = 'u') IS NOT NULL": FINE,
    "SELECT id FROM turns WHERE user_id = 'u' AND (SELECT m.id FROM messages m WHERE m.turn_id = turns.id "
    "AND m.user_id = turns.user_id) IS NOT NULL": NO_OWNER,
    "SELECT m.id FROM messages m JOIN (SELECT id, user_id FROM turns WHERE user_id = 'u' LIMIT 3) AS latest "
    "ON m.turn_id = latest.id AND m.user_id = latest.user_id": NO_OWNER,
    "SELECT id FROM conversations WHERE NOT EXISTS (SELECT FROM turns WHERE turns.user_id = conversations.user_id "
    "AND turns.conversation_id = conversations.id)": NO_OWNER,
    "SELECT id FROM turns WHERE user_id = 'u' AND EXISTS (SELECT FROM workers WHERE workers.id = turns.worker_id)": FINE,
    "SELECT id FROM turns WHERE user_id = 'u' FOR SHARE": FINE,
    "SELECT id FROM turns WHERE run_id = 'r' FOR SHARE": LOCKS_ALL,
    "UPDATE turns SET finished_at = statement_timestamp() WHERE user_id = 'u'": FINE,
    "UPDATE turns SET finished_at = clock_timestamp() WHERE user_id = 'u'": IS_VOLATILE,
    "UPDATE workers SET lease_until = clock_timestamp()": IS_VOLATILE,
    "UPDATE turns SET model = 'm' WHERE id = 1": NO_OWNER,
    "DELETE FROM turns WHERE user_id = 'u' AND id IN (SELECT id FROM turns WHERE user_id = 'u' LIMIT 1)": FINE,
    "DELETE FROM turns WHERE id IN (SELECT id FROM turns WHERE user_id = 'u' LIMIT 1)": NO_OWNER,
    "INSERT INTO users (id, created_at) VALUES ('u', statement_timestamp()) ON CONFLICT DO NOTHING": FINE,
    "INSERT INTO feedback (user_id, conversation_id, message_id, rating, updated_at) "
    "SELECT user_id, conversation_id, id, 'up', created_at FROM messages WHERE user_id = 'u' RETURNING feedback.rating": INSERT_SELECT,
    "WITH gone AS (DELETE FROM feedback WHERE user_id = 'u' RETURNING message_id), "
    "kept AS (INSERT INTO feedback (user_id, conversation_id, message_id, rating, updated_at) "
    "SELECT 'u', 1, gone.message_id, 'up', statement_timestamp() FROM gone RETURNING message_id) "
    "SELECT message_id FROM kept": MODIFYING_CTE,
}


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_statement_is_judged(sql: str) -> None:
    assert verdict(sql) == STATEMENTS[sql]


async def test_what_the_service_sends_with_db_kind_citus_does_on_citus(postgres: Postgres) -> None:
    """As the role that row-level security holds for. The test fails when it ends, if the watch refused a statement."""
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    with citus_watch.strictly():
        async with serve(settings_for(url, db_kind="citus")) as base, Client(base, "o'alice") as alice:
            key = await alice.post(alice.mine("/keys"), json={"name": "k"})
            first = await alice.said_with(
                {"headers": {"Authorization": f"Bearer {key.json()['key']}"}},
                'call add_task {"title": "milk"}\nsay Hello.',
            )
            again = await alice.said("say Hello.", first["conversation_id"])
            page = await alice.messages(first["conversation_id"])
            assert [each["role"] for each in page] == ["user", "assistant"] * 2
            await alice.post(alice.mine(f"/turns/{again['turn_id']}/regenerate"), json={})
            await uploaded(alice, b"x")
            assert (await alice.get(alice.mine("/search?q=hello"))).json()["items"]
            assert (await alice.get(alice.mine("/export"))).text.count('"record":"message"') >= 4
            conversation = alice.mine(f"/conversations/{first['conversation_id']}")
            assert (await alice.patch(conversation, json={"title": "x"})).is_success
            assert (await alice.delete(conversation)).status_code == 204
            assert (await alice.delete(alice.mine("?confirm=o'alice"))).status_code == 204


async def test_an_owner_is_quoted_wherever_it_is_set(postgres: Postgres) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    database = open_database(settings_for(postgres.url(name), db_kind="citus"))
    for owner in ("o'al\\ice", "\\'; DROP TABLE users; --", "$1 :x %s é"):
        async with database.transaction(owner) as session:
            assert await session.scalar(text("SELECT current_setting('chatapi.user_id')")) == owner
    await database.close()


async def test_a_worker_that_was_lost_is_an_outage(postgres: Postgres) -> None:
    """And no defect: the same transaction may succeed again."""
    name = await asyncio.to_thread(postgres.new_database)
    database = open_database(settings_for(postgres.url(name)))
    told = {
        "failure on connection marked as essential: w:1": True,
        "could not commit transaction for shard 1 on at least one active node": True,
        "failure on something else marked as essential": False,
    }
    for message, is_lost in told.items():
        with pytest.raises(DBAPIError) as failed:
            async with database.transaction("alice") as session:
                await session.execute(text(f"DO $$ BEGIN RAISE '{message}' USING ERRCODE = 'XX000'; END $$"))
        assert is_outage(failed.value) == is_lost
    await database.close()


class LosesAMachine(Database):
    """A database of which one machine is away, on which leases are, too."""

    tries = 0

    async def run(self, owner: Owner, *_: Any, **__: Any) -> Any:
        self.tries += 1
        raise DatabaseUnavailable


async def test_turns_begin_without_a_lease_where_one_of_several_machines_is_away(postgres: Postgres) -> None:
    """The one that is away may be nothing to the turn's user, and leases are on all."""
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    for kind in ("postgresql", "citus"):
        settings = settings_for(url, db_kind=kind)
        database = LosesAMachine(settings, Patience(), unread_metrics(), Tracing())
        database.takes_statements = False
        lease = Lease(database, Patience(), turn_seconds=1)
        if kind == "citus":
            await lease.ensure()
            await lease.ensure()
            assert database.tries == 1, "a turn waited for another failure"
        else:
            with pytest.raises(DatabaseUnavailable):
                await lease.ensure()
        await database.close()


# Commands of migrations on tables that are distributed.
COMMANDS = {
    "CREATE TABLE notes (id BIGINT, user_id TEXT, PRIMARY KEY (user_id, id))": FINE,
    "CREATE TABLE notes (id BIGINT, user_id TEXT, PRIMARY KEY (id))": "a key without the owner",
    "CREATE TABLE notes (user_id TEXT PRIMARY KEY, FOREIGN KEY(user_id) REFERENCES users (id))": (
        "a foreign key before the table is placed"
    ),
    "ALTER TABLE messages ADD FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE CASCADE": FINE,
    "ALTER TABLE messages ADD FOREIGN KEY (turn_id) REFERENCES turns (id)": (
        "a foreign key that does not begin with the owner"
    ),
    "ALTER TABLE files ADD FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE SET NULL (turn_id)": "SET NULL",
    "ALTER TABLE turns DROP CONSTRAINT pk_turns, ADD PRIMARY KEY (user_id, id)": "a key dropped and added in one command",
    "ALTER TABLE messages ADD COLUMN n BIGINT GENERATED BY DEFAULT AS IDENTITY": "an identity that comes later",
    "CREATE UNIQUE INDEX CONCURRENTLY uq ON turns (run_id)": "a key without the owner",
    "CREATE INDEX ix ON turns (run_id)": FINE,
    "CREATE TABLE things (id BIGINT PRIMARY KEY)": FINE,
}


@pytest.mark.parametrize("sql", COMMANDS)
def test_a_command_of_a_migration_is_judged(sql: str) -> None:
    assert schema_fault(sql) == COMMANDS[sql]


async def test_migrations_since_tables_can_be_distributed_do_on_distributed_tables(
    postgres: Postgres,
) -> None:
    """Those before are done when `database distribute` begins."""
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    with citus_watch.migrations() as sent:
        await asyncio.to_thread(upgrade, settings_for(postgres.url(name)), SLOW_MACHINE)
    faults = [(file, fault, sql) for file, sql in sent if (fault := schema_fault(sql)) is not None]
    assert ("0001_first_tables.py", "a key without the owner") in {each[:2] for each in faults}
    assert [each for each in faults if each[0] >= "0018"] == []


def test_what_is_asked_of_all_machines_is_documented() -> None:
    told = (REPOSITORY / "docs/scaling.md").read_text()
    assert [name for name in citus_watch.EVERYBODYS if f"`{name.partition(':')[2]}`" not in told] == []


def distribute(url: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "chatapi", "database", "distribute", "--shards", "4"],
        cwd=directory,
        env={**clean_environ(), "DATABASE_URL": url, "BETTER_AUTH_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_a_database_without_citus_is_not_distributed(postgres: Postgres, directory: Path) -> None:
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    done = await asyncio.to_thread(distribute, url, directory)
    assert (done.returncode, done.stderr) == (
        1,
        "chatapi: DATABASE_URL: This PostgreSQL has no Citus. As its superuser: CREATE EXTENSION citus (docs/scaling.md)\n",
    )


@pytest.fixture(scope="module")
async def citus_url() -> AsyncIterator[str]:
    citus = Citus.of_environment()
    assert citus is not None
    name = await asyncio.to_thread(citus.new_database)
    yield citus.url(name)
    await asyncio.to_thread(citus.drop, name)


@pytest.mark.skipif(Citus.of_environment() is None, reason="CHATAPI_TEST_CITUS_URL names no Citus")
class TestReal:
    @pytest.mark.parametrize("sql", STATEMENTS)
    async def test_citus_thinks_so_too(self, citus_url: str, sql: str) -> None:
        connection = await asyncpg.connect(citus_url)
        try:
            judged = await real_verdict(connection, sql)
        finally:
            await connection.close()
        if STATEMENTS[sql] is FINE:
            assert judged == "one machine"
        elif STATEMENTS[sql] == NO_OWNER:
            assert judged in {"all machines", "in steps, by way of the coordinator"}
        else:
            assert judged != "one machine"

    async def test_a_turn_is_twelve_statements_at_most_and_all_on_one_worker(self, citus_url: str) -> None:
        """Beside BEGIN, with the owner, and COMMIT, of two transactions; budgets are checked, and usage is counted."""
        heard: list[Any] = []
        sent: list[list[tuple[str, str]]] = []

        def listen(connection: Any, _: Any) -> None:
            driver = connection.driver_connection
            driver.add_log_listener(lambda _, message: heard.append(message))
            connection.run_async(lambda each: each.execute("SET citus.log_remote_commands = on"))

        event.listen(Pool, "connect", listen)
        try:
            # No look of the supervisor's and no heartbeat in between.
            patience = Patience(lease_renewal=3_600, watch=3_600, poll=3_600)
            settings = settings_for(citus_url, budget_tokens="1000000/day,20000000/month")
            async with serve(settings, patience=patience) as base, Client(base, "alice") as alice:
                first = await alice.said("say 1")
                for headers in ({}, {"Idempotency-Key": "second"}):
                    heard.clear()
                    await alice.said_with({"headers": headers}, "say 2", first["conversation_id"])
                    await asyncio.sleep(0.05)  # asyncpg tells of a message in the loop's next round
                    issued = [each for each in heard if each.message.startswith("issuing ")]
                    sent.append([(each.message, each.detail) for each in issued])
        finally:
            event.remove(Pool, "connect", listen)
        for commands, most in zip(sent, (11, 12), strict=True):
            told = "\n".join(each for each, _ in commands)
            around = [each for each, _ in commands if each.startswith(("issuing BEGIN", "issuing COMMIT"))]
            assert len({place for _, place in commands}) == 1
            assert (len(around), len(commands) - len(around)) == (4, most), told
            assert "PREPARE TRANSACTION" not in told

    async def test_a_commit_whose_worker_is_lost_is_looked_for_and_done_again(self, citus_url: str) -> None:
        """The coordinator does not know whether it was done, and says so by an internal error."""
        citus = Citus.of_environment()
        assert citus is not None
        tries: list[str] = []

        async def work(session: AsyncSession) -> str:
            tries.append("work")
            await remember_user(session, "carol")
            if tries == ["work"]:
                await citus.end_sessions(citus_url.rpartition("/")[2])
            return "done"

        async def recover(session: AsyncSession) -> str | None:
            tries.append("recover")
            return await session.scalar(select(User.id).where(User.id == "carol"))

        database = open_database(settings_for(citus_url))
        assert await database.run("carol", work, recover) == "done"
        await database.close()
        assert tries == ["work", "recover", "work"]

    async def test_distributing_again_says_that_it_is_done(self, citus_url: str, directory: Path) -> None:
        done = await asyncio.to_thread(distribute, citus_url, directory)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("All tables are distributed already.\nusers: by id, 4 shards\n")

    async def test_a_later_table_is_placed_beside_the_others(self, citus_url: str) -> None:
        database = open_database(settings_for(citus_url))
        async with database.engine.connect() as connection:
            await connection.exec_driver_sql(
                "CREATE TABLE notes (user_id text, id bigint, PRIMARY KEY (user_id, id))"
            )
            await connection.run_sync(place_new, "notes")
            await connection.exec_driver_sql(
                "ALTER TABLE notes ADD FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE"
            )
        await database.close()

    async def test_a_service_that_was_not_told_is_not_ready(self, citus_url: str) -> None:
        async with (
            serve(settings_for(citus_url, db_kind="postgresql", migrate="off")) as base,
            anybody(base) as client,
        ):
            answer = (await client.get("/health/ready")).text
        assert "DB_KIND=citus" in answer

    async def test_tables_of_a_version_before_are_not_distributed(self, directory: Path) -> None:
        """Their foreign keys are without the owner."""
        citus = Citus.of_environment()
        assert citus is not None
        name = await asyncio.to_thread(lambda: citus.new_database(migrated=False))
        commands = AlembicCommands(
            sqlalchemy_config=database_config(settings_for(citus.url(name)), SLOW_MACHINE)
        )
        await asyncio.to_thread(commands.upgrade, "0016")
        done = await asyncio.to_thread(distribute, citus.url(name), directory)
        assert (done.returncode, "Run: chatapi database upgrade" in done.stderr) == (1, True)
        await asyncio.to_thread(citus.drop, name)

    async def test_what_was_there_is_kept(self, directory: Path) -> None:
        citus = Citus.of_environment()
        assert citus is not None
        name = await asyncio.to_thread(lambda: citus.new_database(distributed=False))
        settings = settings_for(citus.url(name), db_kind="postgresql")
        async with serve(settings) as base, Client(base, "alice") as alice:
            first = await alice.said("say Hello.")
        done = await asyncio.to_thread(distribute, citus.url(name), directory)
        assert done.returncode == 0, done.stderr
        async with serve(settings_for(citus.url(name))) as base, Client(base, "alice") as alice:
            assert '"Hello."' in (await alice.said("history", first["conversation_id"]))["response"]
        await asyncio.to_thread(citus.drop, name)


async def real_verdict(connection: asyncpg.Connection, sql: str) -> str:
    """Where a real Citus runs the statement: on one machine or all, in steps, or not at all."""
    trying = connection.transaction()
    await trying.start()
    await connection.execute("SET LOCAL citus.propagate_set_commands = 'local'")
    await connection.execute("SET LOCAL chatapi.user_id = 'u'")
    try:
        lines = [line for (line,) in await connection.fetch(f"EXPLAIN (COSTS OFF) {sql}")]
        await connection.execute(sql)
    except asyncpg.PostgresError as error:
        return str(error)
    finally:
        await trying.rollback()
    if any("Distributed Subplan" in line for line in lines):
        return "in steps, by way of the coordinator"
    tasks = [line for line in lines if "Task Count" in line]
    return "one machine" if all(line.endswith(": 1") for line in tasks) else "all machines"
