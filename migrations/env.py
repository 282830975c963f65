"""How Alembic runs here: everything in one transaction, one process at a time.

Processes that upgrade at once queue for a lock, and the late ones find nothing left to do. On PostgreSQL it is an
advisory lock that ends with the transaction; on SQLite, BEGIN IMMEDIATE is the lock.

A statement may take as long as it needs: a queued process waits for another's whole upgrade, and an index of a large
table takes minutes. Only the wait for a table is short, because all who use the table queue behind it meanwhile.
"""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from advanced_alchemy.base import metadata_registry
from alembic import context
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

import chatapi.db.models  # noqa: F401 - registers the tables

if TYPE_CHECKING:
    from advanced_alchemy.alembic.commands import AlembicCommandConfig

MIGRATION_LOCK = 0x63686174  # any number, as long as nobody else uses it: "chat"
TABLE_LOCK = "5s"  # as long as a request's statement may take; a longer wait is a 503


def migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK}'"))
    context.configure(
        connection=connection,
        target_metadata=metadata_registry.get(config.bind_key),
        version_table=config.version_table_name,
        compare_type=config.compare_type,
        transactional_ddl=True,  # SQLite's DDL is transactional, too, under an explicit BEGIN
    )
    context.run_migrations()


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
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", wait_for_others)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


config = cast("AlembicCommandConfig", context.config)
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
