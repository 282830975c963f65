"""The schema: up, down and up again, by several at once, and the same as the models say."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from advanced_alchemy.alembic.commands import AlembicCommands
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from chatapi.db.config import Database, database_config
from chatapi.settings import Settings
from tests.support.serving import SECRET, clean_environ, settings_for

TABLES = {
    "users",
    "conversations",
    "turns",
    "turn_chunks",
    "messages",
    "tool_calls",
    "tasks",
    "workers",
    "alembic_versions",
}


async def tables(settings: Settings) -> set[str]:
    database = Database(database_config(settings))
    async with database.engine.connect() as connection:
        found = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    await database.close()
    return found - {"sqlite_sequence"}


async def alembic(settings: Settings, command: str, *arguments: str) -> None:
    """Run a command of Alembic, which runs an event loop of its own, on an engine of its own."""
    commands = AlembicCommands(sqlalchemy_config=database_config(settings))
    await asyncio.to_thread(getattr(commands, command), *arguments)


async def test_up_down_and_up_again(empty_database_url: str) -> None:
    settings = settings_for(empty_database_url)
    await alembic(settings, "upgrade")
    assert await tables(settings) == TABLES
    await alembic(settings, "downgrade", "base")
    assert await tables(settings) == {"alembic_versions"}
    await alembic(settings, "upgrade")
    assert await tables(settings) == TABLES


async def test_the_models_and_the_migrations_agree(empty_database_url: str) -> None:
    settings = settings_for(empty_database_url)
    await alembic(settings, "upgrade")
    await alembic(settings, "check")  # raises when the models have what the migrations have not


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    settings = settings_for(empty_database_url)
    database = Database(database_config(settings))
    async with database.transaction(None) as session:
        connection = await session.connection()
        await connection.exec_driver_sql(
            "CREATE TABLE tool_calls (in_the_way integer)"
        )  # the last one to be made
    with pytest.raises(DBAPIError, match="tool_calls"):
        await alembic(settings, "upgrade")
    assert await tables(settings) == {"tool_calls"}
    await database.close()


async def test_three_processes_at_once_make_it_once(new_database: Callable[[], str], directory: Path) -> None:
    url = await asyncio.to_thread(new_database)
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
