"""The schema: up, down and up again, by several at once, and the same as the models say."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from advanced_alchemy.alembic.commands import AlembicCommands
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from chatapi.db.engine import MIGRATIONS, database_config
from chatapi.db.schema import Schema, revisions
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError
from tests.support.databases import open_database
from tests.support.logs import heard
from tests.support.postgres import WAITING, Postgres, until
from tests.support.serving import SECRET, SLOW_MACHINE, Process, clean_environ, command, settings_for

ASKS_FOR_THE_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND (query LIKE '%pg_try_advisory_xact_lock%' OR query = 'ROLLBACK;')"
)
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"

TABLES = {
    "waits",
    "queued_turns",
    "users",
    "conversations",
    "turns",
    "turn_chunks",
    "messages",
    "feedback",
    "search_text",
    "summaries",
    "search_backfill",
    "tool_calls",
    "files",
    "api_keys",
    "tasks",
    "usage_conversations",
    "usage_days",
    "workers",
    "alembic_versions",
}


async def tables(settings: Settings) -> set[str]:
    database = open_database(settings)
    async with database.engine.connect() as connection:
        found = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    await database.close()
    return found - {"sqlite_sequence"}


async def alembic(
    settings: Settings, command: str, *arguments: str, patience: Patience = SLOW_MACHINE
) -> None:
    """Run a command of Alembic, which runs an event loop of its own, on an engine of its own."""
    commands = AlembicCommands(sqlalchemy_config=database_config(settings, patience))
    await asyncio.to_thread(getattr(commands, command), *arguments)


async def test_up_down_and_up_again(bare_database_url: str) -> None:
    settings = settings_for(bare_database_url)
    await alembic(settings, "upgrade")
    assert await tables(settings) == TABLES
    await alembic(settings, "downgrade", "base")
    assert await tables(settings) == {"alembic_versions"}
    await alembic(settings, "upgrade")
    assert await tables(settings) == TABLES


async def test_the_models_and_the_migrations_agree(bare_database_url: str) -> None:
    settings = settings_for(bare_database_url)
    await alembic(settings, "upgrade")
    await alembic(settings, "check")  # raises when the models have what the migrations have not


async def test_a_migration_that_fails_leaves_nothing_behind(bare_database_url: str) -> None:
    settings = settings_for(bare_database_url)
    database = open_database(settings)
    async with database.transaction(None) as session:
        connection = await session.connection()
        await connection.exec_driver_sql(
            "CREATE TABLE tool_calls (in_the_way integer)"
        )  # the last one to be made
    with pytest.raises(DBAPIError, match="tool_calls"):
        await alembic(settings, "upgrade")
    assert await tables(settings) == {"tool_calls"}
    await database.close()


@pytest.mark.slow
async def test_three_processes_at_once_make_it_once(
    new_database: Callable[..., str], directory: Path
) -> None:
    url = await asyncio.to_thread(new_database, migrated=False)
    environ = {**clean_environ(), "DATABASE_URL": url, "BETTER_AUTH_SECRET": SECRET}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "chatapi",
            "database",
            "upgrade",
            "--no-prompt",
            cwd=directory,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        for _ in range(3)
    ]
    outputs = [(await process.communicate())[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(outputs)
    assert sum("Running upgrade" in output for output in outputs) == 1
    assert await tables(settings_for(url)) == TABLES


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[asyncpg.Connection]:
    """Another transaction, which has done this and goes on."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield connection
    finally:
        await connection.close()


async def test_waits_for_another_upgrade_for_longer_than_a_statement_may_take(postgres: Postgres) -> None:
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    settings = settings_for(postgres.url(name), db_pool_size=1)
    async with holding(settings.database_url, f"SELECT pg_advisory_xact_lock({0x63686174})") as other:
        upgrading = asyncio.create_task(
            alembic(settings, "upgrade", patience=Patience(database_statement=0.1))
        )
        await until(ASKS_FOR_THE_LOCK, other, upgrading)
        await asyncio.sleep(0.3)
        assert not upgrading.done()
        assert not await other.fetchval("SELECT to_regclass('alembic_versions')")
    await upgrading
    assert await tables(settings) == TABLES


@pytest.mark.slow
async def test_a_service_that_waits_for_another_upgrade_ends_at_sigterm(
    postgres: Postgres, directory: Path
) -> None:
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    environ = {"DATABASE_URL": postgres.url(name), "BETTER_AUTH_SECRET": SECRET, "MIGRATE": "auto"}
    async with (
        holding(environ["DATABASE_URL"], f"SELECT pg_advisory_xact_lock({0x63686174})") as other,
        Process(directory, environ) as process,
    ):
        ended = asyncio.create_task(process.wait())
        await until(ASKS_FOR_THE_LOCK, other, ended)
        process.terminate()
        assert await ended == 0
        assert not await other.fetchval("SELECT to_regclass('alembic_versions')")


async def test_writers_go_on_while_an_index_is_built(postgres: Postgres) -> None:
    """The build waits for a transaction that began before it, and a writer meanwhile for nothing.

    A build that is broken off leaves an invalid index, and the next upgrade makes it anew.
    """
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    settings = settings_for(postgres.url(name))
    await alembic(settings, "upgrade", "0008")
    writer = await asyncpg.connect(settings.database_url, command_timeout=30)
    await writer.execute(
        "SET chatapi.everyone = 'on'; INSERT INTO users (id, created_at) VALUES ('alice', now())"
    )
    old_snapshot = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT * FROM users"
    async with holding(settings.database_url, old_snapshot):
        upgrading = asyncio.create_task(alembic(settings, "upgrade"))
        await until(WAITING, writer, upgrading)
        await writer.execute(
            "INSERT INTO conversations (user_id, created_at, updated_at) VALUES ('alice', now(), now())"
        )
        await writer.execute("UPDATE conversations SET title = 'while it is built'")
        await writer.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE NOT granted AND datname = current_database()"
        )
        with pytest.raises(DBAPIError, match="canceling statement due to user request"):
            await upgrading
        assert await writer.fetchval(INVALID) == 1
    await alembic(settings, "upgrade")
    assert await writer.fetchval(INVALID) == 0
    await writer.close()
    await alembic(settings, "check")


# A user with a turn, at 0016 and later.
A_TURN = """
WITH owner AS (INSERT INTO users (id, created_at) VALUES ('{0}', now()) RETURNING id),
  conversation AS (INSERT INTO conversations (user_id, created_at, updated_at) SELECT id, now(), now() FROM owner RETURNING id)
INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at)
SELECT '{0}', id, 'completed', 'w', '{0}', false, 'm', now() FROM conversation RETURNING id
"""
# A row of each table with a key to `turns`, for an owner and a turn.
ROWS = {
    "messages": "INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at) "
    "VALUES ($1, 1, $2, 'user', 'x', '[]', now())",
    "tool_calls": "INSERT INTO tool_calls (user_id, turn_id, position, call_id, name, arguments, created_at) "
    "VALUES ($1, $2, 0, 'c', 'n', '{}', now())",
    "turn_chunks": "INSERT INTO turn_chunks (user_id, turn_id, run_id, position, events) VALUES ($1, $2, $1, 0, '[]')",
    "waits": "INSERT INTO waits (user_id, turn_id, number, conversation_id, run_id, calls, answers, keys, events, "
    "client_tools, began_at, expires_at) VALUES ($1, $2, 1, 1, $1, '[]', '{}', '{}', '[]', '[]', now(), now())",
    "files": "INSERT INTO files (user_id, turn_id, key, name, media_type, size, sha256, created_at) "
    "VALUES ($1, $2, 'k', 'n', 'm', 1, 's', now())",
}
KEYS_TO_TURNS = """
SELECT conrelid::regclass::text, cardinality(conkey) AS columns, convalidated FROM pg_constraint
WHERE contype = 'f' AND confrelid = 'turns'::regclass ORDER BY 1
"""


@asynccontextmanager
async def with_two_turns(postgres: Postgres) -> AsyncIterator[tuple[Settings, asyncpg.Connection, int, int]]:
    """A database of the version before, a connection that sees everybody's rows, and Alice's and Bob's turns."""
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    settings = settings_for(postgres.url(name))
    await alembic(settings, "upgrade", "0016")
    connection = await asyncpg.connect(settings.database_url, command_timeout=30)
    await connection.execute("SET chatapi.everyone = 'on'")
    ids = [await connection.fetchval(A_TURN.format(owner)) for owner in ("alice", "bob")]
    try:
        yield settings, connection, *ids
    finally:
        await connection.close()


async def test_no_row_is_tied_to_the_turn_of_another_user(postgres: Postgres) -> None:
    """Nor was one before: an upgrade that finds one stops, and goes on once it is gone."""
    async with with_two_turns(postgres) as (settings, connection, alices, bobs):
        for insert in ROWS.values():
            await connection.execute(insert, "bob", bobs)
        await connection.execute(ROWS["messages"], "bob", alices)
        with pytest.raises(SettingsError, match="the table messages has rows that violate"):
            await alembic(settings, "upgrade")
        await connection.execute("DELETE FROM messages WHERE turn_id = $1", alices)
        await alembic(settings, "upgrade")
        keys = [tuple(each) for each in await connection.fetch(KEYS_TO_TURNS)]
        assert keys == [(table, 2, True) for table in sorted(ROWS)]
        for table, insert in ROWS.items():
            with pytest.raises(asyncpg.ForeignKeyViolationError, match=f"fk_{table}_user_id_turns"):
                await connection.execute(insert, "bob", alices)
        await connection.execute("DELETE FROM turns WHERE id = $1", bobs)
        left = {table: await connection.fetch(f"SELECT user_id, turn_id FROM {table}") for table in ROWS}
        assert left.pop("files") == [("bob", None)]
        assert not any(left.values())
        await alembic(settings, "downgrade", "0016")
        keys = [tuple(each) for each in await connection.fetch(KEYS_TO_TURNS)]
        assert keys == [(table, 1, True) for table in sorted(ROWS)]


async def test_a_service_that_migrates_itself_says_what_is_to_be_mended_and_goes_on_when_it_is(
    postgres: Postgres,
) -> None:
    async with with_two_turns(postgres) as (settings, connection, alices, _):
        await connection.execute(ROWS["messages"], "bob", alices)
        itself = replace(settings, migrate="auto")
        database = open_database(itself)
        with heard("chatapi.db.schema") as messages:
            migrating = asyncio.create_task(
                Schema(database, itself, replace(SLOW_MACHINE, schema_mending=0.1)).migrate_when_possible()
            )
            while not messages and not migrating.done():  # noqa: ASYNC110 - the log is all that tells
                await asyncio.sleep(0.01)
            assert "the table messages has rows that violate" in messages[0]
            await connection.execute("DELETE FROM messages")
            await migrating
        await database.close()
        keys = [tuple(each) for each in await connection.fetch(KEYS_TO_TURNS)]
        assert keys == [(table, 2, True) for table in sorted(ROWS)]


READ = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS rows FROM pg_stat_xact_user_tables"


@pytest.mark.parametrize("analyzed", ["never", "when empty", "when full"])
async def test_what_goes_with_a_turn_is_found_among_all_that_its_owner_has(
    postgres: Postgres, analyzed: str
) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    connection = await asyncpg.connect(postgres.url(name, role="postgres"))
    await connection.execute("SET enable_bitmapscan = off")  # as in the service's connections
    if analyzed == "when empty":
        await connection.execute("ANALYZE")
    turn = await connection.fetchval(A_TURN.format("alice"))
    await connection.execute(
        "INSERT INTO conversations (user_id, created_at, updated_at) VALUES ('alice', now(), now())"
    )
    others = await connection.fetch(
        "INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at) "
        "SELECT 'alice', max(id), 'completed', 'w', n::text, false, 'm', now() FROM conversations, generate_series(1, 2000) n "
        "GROUP BY n RETURNING id"
    )
    for insert in ROWS.values():
        await connection.executemany(
            insert, [("alice", id_) for id_ in (turn, *(each["id"] for each in others))]
        )
    if analyzed == "when full":
        await connection.execute("ANALYZE")
    for deletion in (
        "DELETE FROM turns WHERE id = $1",
        "DELETE FROM conversations WHERE id = (SELECT conversation_id FROM turns WHERE id = $1)",
    ):
        deleting = connection.transaction()
        await deleting.start()
        before = dict(await connection.fetch(READ))
        await connection.execute(deletion, turn)
        read = dict(await connection.fetch(READ))
        assert {table for table in ("turns", *ROWS) if read[table] - before[table] > 10} == set()
        await deleting.rollback()
    await connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("held", ["ROW EXCLUSIVE", "ACCESS SHARE"])
async def test_others_go_on_while_a_foreign_key_waits_for_a_long_transaction(
    postgres: Postgres, held: str
) -> None:
    """For one that writes, and the new key waits; or for a dump that reads, and only the old key's end waits."""
    async with with_two_turns(postgres) as (settings, writer, alices, _):
        # The build of an index, which is tried elsewhere, would wait for the transaction before that.
        await writer.execute("CREATE UNIQUE INDEX uq_turns_owner ON turns (id, user_id)")
        async with holding(settings.database_url, f"LOCK TABLE messages IN {held} MODE"):
            upgrading = asyncio.create_task(alembic(settings, "upgrade"))
            await until(WAITING, writer, upgrading)
            for _ in range(2):  # the first one may still queue behind the upgrade, which then gives way
                await writer.execute(ROWS["messages"], "alice", alices)
            assert not upgrading.done()
        await upgrading
        assert await writer.fetchval("SELECT count(*) FROM messages") == 2


@pytest.mark.slow
async def test_a_foreign_key_waits_again_after_a_deadlock(postgres: Postgres) -> None:
    """Somebody has the one table and wants the other, which the upgrade has. PostgreSQL ends one of them, mostly the upgrade's try."""
    async with with_two_turns(postgres) as (settings, watching, _, _):
        await watching.execute("CREATE UNIQUE INDEX uq_turns_owner ON turns (id, user_id)")
        async with holding(settings.database_url, "LOCK TABLE messages IN ROW EXCLUSIVE MODE") as other:
            upgrading = asyncio.create_task(alembic(settings, "upgrade"))
            await until(WAITING, watching, upgrading)
            with suppress(asyncpg.DeadlockDetectedError):
                await other.execute("LOCK TABLE turns IN ROW EXCLUSIVE MODE")
        await upgrading


@pytest.mark.slow
async def test_waits_for_another_upgrade_on_sqlite_too(directory: Path) -> None:
    settings = settings_for(f"sqlite:///{directory / 'chatapi.db'}")
    database = open_database(settings)
    async with database.transaction(None) as session:
        await session.connection()  # which begins, and takes the lock
        upgrading = asyncio.create_task(alembic(settings, "upgrade"))
        await asyncio.sleep(8)  # a statement waits for five seconds
        assert not upgrading.done()
    await upgrading
    await database.close()
    assert await tables(settings) == TABLES


@pytest.mark.slow
async def test_does_not_queue_for_a_table_with_everybody_behind(postgres: Postgres, directory: Path) -> None:
    """As while `pg_dump` reads: a turn would wait for the migration, which waits for the dump."""
    name = await asyncio.to_thread(postgres.new_database, migrated=False)
    settings = settings_for(postgres.url(name))
    await alembic(settings, "upgrade", "0003")
    async with holding(settings.database_url, "LOCK TABLE turns IN ACCESS SHARE MODE"):
        refused = await asyncio.to_thread(upgrade, settings.database_url, directory)
        assert (refused.returncode, refused.stderr) == (
            1,
            "chatapi: DATABASE_URL: canceling statement due to lock timeout\n",
        )
    assert (await asyncio.to_thread(upgrade, settings.database_url, directory)).returncode == 0


def test_a_database_that_is_away_is_one_line(directory: Path) -> None:
    away = upgrade("postgresql://u@127.0.0.1:1/d", directory)
    assert away.returncode == 1
    assert "Connect call failed" in away.stderr
    assert len(away.stderr.splitlines()) == 1


def upgrade(url: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return command(directory, url, "database", "upgrade", "--no-prompt")


def test_the_revisions_are_known_without_alembic() -> None:
    walked = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    assert revisions() == walked[::-1]
