"""Migrations from inside the service: checks whether the schema is this version's, and upgrades it."""

import asyncio
import logging
import time
from threading import Event

from sqlalchemy import Connection, column, inspect, select, table

from chatapi.db.database import Database
from chatapi.db.engine import MIGRATIONS, database_config
from chatapi.db.failures import is_transient
from chatapi.db.placing import is_distributed
from chatapi.errors.database import SchemaOutdated
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
CALLED_OFF = "chatapi.called_off"  # an attribute of Alembic's configuration, for migrations/env.py


class Schema:
    """The schema's revision against the one that this version's migrations lead to."""

    def __init__(self, database: Database, settings: Settings, patience: Patience) -> None:
        self._database = database
        self._settings = settings
        self._patience = patience
        self._current = False
        self._asked_at = float("-inf")
        self._trouble: Exception | None = None  # why the last look at the database saw nothing
        self._asking = asyncio.Lock()

    async def ensure_current(self) -> None:
        """Raise `SchemaOutdated` unless the schema is current, and what a transaction raises if that cannot be seen.

        A schema that was current once stays so: nobody downgrades it under a running version.
        """
        if self._current:
            return
        since = time.monotonic()
        async with self._asking:  # one request looks, at most once a second; the others use its result
            if not self._current and since - self._asked_at >= 1.0:
                await self._look()
        if self._trouble is not None:
            raise self._trouble.with_traceback(None)  # each raise adds to it
        if not self._current:
            raise SchemaOutdated("Run: chatapi database upgrade --no-prompt", retry_after=2)

    async def _look(self) -> None:
        self._trouble = None
        try:
            async with self._database.transaction(None, reads_only=True) as session:
                connection = await session.connection()
                self._current = await connection.run_sync(self._is_current)
        except Exception as error:
            if is_transient(error):
                self._trouble = error
                self._asked_at = time.monotonic()
            raise
        self._asked_at = time.monotonic()

    async def migrate(self) -> None:
        """Upgrade to the newest revision, if the settings say that the service does so itself.

        If this is cancelled, a wait for another process's upgrade ends, and an upgrade under way goes on to its end.
        """
        if self._settings.migrates_itself:
            try:
                await self.ensure_current()
            except SchemaOutdated:
                called_off = Event()
                try:
                    await asyncio.to_thread(upgrade, self._settings, self._patience, called_off)
                finally:
                    called_off.set()
                self._asked_at = float("-inf")  # so that the first request need not wait to see it

    async def migrate_when_possible(self) -> None:
        """Call `migrate` again and again until the database lets it."""
        while True:
            try:
                return await self.migrate()
            except SettingsError as error:
                log.warning("The schema could not be migrated. %s", error)
                pause = self._patience.schema_mending
            except Exception:
                log.warning(
                    "The schema could not be migrated; trying again in %s s", RETRY_SECONDS, exc_info=True
                )
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    def _is_current(self, connection: Connection) -> bool:
        versions = table(self._database.config.alembic_config.version_table_name, column("version_num"))
        if not inspect(connection).has_table(versions.name):
            return False
        known = revisions()
        if not self._settings.sqlite and self._settings.db_kind != "citus" and is_distributed(connection):
            raise SchemaOutdated("The tables are distributed. Set DB_KIND=citus", retry_after=2)
        # A revision that this version does not know is a newer one: a roll-out is under way.
        return any(
            revision == known[-1] or revision not in known
            for revision in connection.scalars(select(versions.c.version_num))
        )


def revisions() -> list[str]:
    """All that this version knows, in order: their files begin with them. Alembic would run each to find out."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def upgrade(settings: Settings, patience: Patience, called_off: Event | None = None) -> None:
    """Apply the migrations on an engine of their own, because Alembic runs its own event loop.

    Once it is `called_off`, it waits no longer for the upgrade of another process.
    """
    from advanced_alchemy.alembic.commands import AlembicCommands

    commands = AlembicCommands(sqlalchemy_config=database_config(settings, patience))
    commands.config.attributes[CALLED_OFF] = called_off
    commands.upgrade()
