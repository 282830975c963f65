"""How Alembic runs here: one process at a time, and on PostgreSQL each migration in a transaction of its own.

A table is locked for a moment, because its migration has its own transaction. An index on a table that may be large is
built outside of one; see `chatapi.db.indexes`. SQLite has one writer in any case: there the whole upgrade is one
transaction, and BEGIN IMMEDIATE is the lock against other processes.

A statement may take as long as it needs: an index of a large table takes minutes. Only the wait for a table is short,
because all who use the table queue behind it meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, cast

from advanced_alchemy.base import metadata_registry
from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

import chatapi.db.models  # noqa: F401 - registers the tables
from chatapi.db.schema import CALLED_OFF

if TYPE_CHECKING:
    from advanced_alchemy.alembic.commands import AlembicCommandConfig

MIGRATION_LOCK = 0x63686174  # any number, as long as nobody else uses it: "chat"
LOCK_PAUSE = 0.2  # seconds between two tries to get it
BUILD_LOCK = "10min"  # for transactions that began before a build, such as a dump
TABLE_LOCK = "5s"  # as long as a request's statement may take; a longer wait is a 503


def migrate(connection: Connection) -> None:
    def is_here(item: Any, *_: Any) -> bool:
        """Whether this database is to have what the models have; see `chatapi.db.models.only_on`."""
        return bool(item.info.get("dialect", connection.dialect.name) == connection.dialect.name)

    context.configure(
        connection=connection,
        target_metadata=metadata_registry.get(config.bind_key),
        version_table=config.version_table_name,
        compare_type=config.compare_type,
        include_object=is_here,
        transactional_ddl=True,  # SQLite's DDL is transactional, too, under an explicit BEGIN
        transaction_per_migration=True,  # has no effect in the transaction that is begun for SQLite
    )
    with context.begin_transaction():
        context.run_migrations()


@asynccontextmanager
async def migration_lock(engine: AsyncEngine) -> AsyncIterator[None]:
    """Hold the lock against other processes, in a transaction of a connection of its own.

    An index that another process builds concurrently waits for all transactions that hold a snapshot. So a transaction
    that has not got the lock ends at once, instead of waiting in a statement, and the one that has it gives its snapshot
    back.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.run_sync(Connection.detach)  # the pool may have one place only
        while not await connection.scalar(
            text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}
        ):
            await connection.rollback()
            if called_off is not None and called_off.is_set():
                raise asyncio.CancelledError
            await asyncio.sleep(LOCK_PAUSE)
        # The last SELECT holds its snapshot until another statement takes its place. SET needs none.
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield


def bound_wait_for_tables(connection: Connection) -> None:
    """Begin each transaction with the limit.

    A concurrent build is in none. It may wait for long, because nobody queues behind it, but not for ever: an upgrade of the
    version before would wait for us in a statement, and we for that statement.
    """
    if connection.get_isolation_level() == "AUTOCOMMIT":
        connection.exec_driver_sql(f"SET lock_timeout = '{BUILD_LOCK}'")
    else:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TABLE_LOCK}'")


def take_your_time(_: Any, __: Any, ___: Any, arguments: dict[str, Any]) -> None:
    """Connect without the limit on a statement that the service's engine has."""
    arguments.pop("command_timeout", None)


def wait_for_others(connection: Any, _: Any) -> None:
    """On SQLite, let BEGIN IMMEDIATE queue for at most this many milliseconds."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=600000")
    cursor.close()


async def migrate_online() -> None:
    engine = cast("AsyncEngine", config.engine)
    event.listen(engine.sync_engine, "do_connect", take_your_time)
    try:
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", wait_for_others)
            async with engine.begin() as connection:
                await connection.run_sync(migrate)
        else:
            async with migration_lock(engine), engine.connect() as connection:
                event.listen(connection.sync_connection, "begin", bound_wait_for_tables)
                await connection.run_sync(migrate)
    finally:
        await engine.dispose()


config = cast("AlembicCommandConfig", context.config)
called_off: Event | None = config.attributes.get(CALLED_OFF)
if context.is_offline_mode():
    context.configure(
        url=config.db_url,
        target_metadata=metadata_registry.get(config.bind_key),
        version_table=config.version_table_name,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(migrate_online())
