"""Migrations from inside the service: checks whether the schema is this version's, and upgrades it."""

import asyncio
import logging
import time

from sqlalchemy import Connection, column, inspect, select, table

from chatapi.db.database import Database
from chatapi.db.engine import MIGRATIONS, database_config
from chatapi.db.placing import is_distributed
from chatapi.errors.database import SchemaOutdated
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


class Schema:
    """The schema's revision against the one that this version's migrations lead to."""

    def __init__(self, database: Database, settings: Settings, patience: Patience) -> None:
        self._database = database
        self._settings = settings
        self._patience = patience
        self._current = False
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def ensure_current(self) -> None:
        """Raise `SchemaOutdated` unless the schema is current.

        A schema that was current once stays so: nobody downgrades it under a running version.
        """
        if self._current:
            return
        async with self._asking:  # one request looks, at most once a second; the others use its result
            if not self._current and time.monotonic() - self._asked_at >= 1.0:
                async with self._database.reader.connect() as connection:
                    self._current = await connection.run_sync(self._is_current)
                self._asked_at = time.monotonic()
        if not self._current:
            raise SchemaOutdated("Run: chatapi database upgrade --no-prompt", retry_after=2)

    async def migrate(self) -> None:
        """Upgrade to the newest revision, if the settings say that the service does so itself."""
        if self._settings.migrates_itself:
            try:
                await self.ensure_current()
            except SchemaOutdated:
                await asyncio.to_thread(upgrade, self._settings, self._patience)
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


def upgrade(settings: Settings, patience: Patience) -> None:
    """Apply the migrations on an engine of their own, because Alembic runs its own event loop."""
    from advanced_alchemy.alembic.commands import AlembicCommands

    AlembicCommands(sqlalchemy_config=database_config(settings, patience)).upgrade()
