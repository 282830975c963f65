"""A real Citus, where there is one: CHATAPI_TEST_CITUS_URL is the URL of its coordinator, as a superuser (CONTRIBUTING.md)."""

import asyncio
import os
import uuid

import asyncpg
from sqlalchemy import make_url

from chatapi.db.distribution import distribute_all
from chatapi.db.schema import upgrade
from tests.support.postgres import ROLE
from tests.support.serving import CITUS, SLOW_MACHINE, settings_for

WORKERS = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 AND isactive"


class Citus:
    """A coordinator with its workers, which know each other in the database of the URL."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)

    @classmethod
    def of_environment(cls) -> "Citus | None":
        return cls(os.environ[CITUS]) if os.environ.get(CITUS) else None

    def url(self, database: str, *, role: str = ROLE) -> str:
        return self._url.set(database=database, username=role).render_as_string(hide_password=False)

    def new_database(self, *, migrated: bool = True, distributed: bool = True) -> str:
        """Make a database on every machine, and with `migrated` its tables; returns its name."""
        name = f"test_{uuid.uuid4().hex}"
        asyncio.run(self._make(name))
        if migrated:
            settings = settings_for(self.url(name))
            upgrade(settings, SLOW_MACHINE)
            if distributed:
                asyncio.run(distribute_all(settings, SHARDS))
        return name

    def drop(self, name: str) -> None:
        """Each database has a process on every machine that wakes again and again."""
        asyncio.run(self._drop(name))

    async def _drop(self, name: str) -> None:
        for host, port in await self._places():
            connection = await self._connect(self._url.database, host, port)
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            await connection.close()

    async def _places(self) -> list[tuple[str, int]]:
        coordinator = await self._connect(self._url.database)
        workers = await coordinator.fetch(WORKERS)
        await coordinator.close()
        return [(str(self._url.host), self._url.port or 5432), *(tuple(each) for each in workers)]

    async def _make(self, name: str) -> None:
        places = await self._places()
        await asyncio.gather(*(self._make_at(name, *place) for place in places))
        made = await self._connect(name)
        await made.execute("SELECT citus_set_coordinator_host($1, $2)", *places[0])
        for place in places[1:]:
            await made.execute("SELECT citus_add_node($1, $2)", *place)
        await made.close()

    async def _make_at(self, name: str, host: str, port: int) -> None:
        """Citus makes databases on its workers by itself only where it is told to."""
        connection = await self._connect(self._url.database, host, port)
        if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", ROLE):
            await connection.execute(f"CREATE ROLE {ROLE} LOGIN")
        await connection.execute(f'CREATE DATABASE "{name}" OWNER {ROLE}')
        await connection.close()
        connection = await self._connect(name, host, port)
        await connection.execute("CREATE EXTENSION citus")
        await connection.close()

    async def _connect(
        self, database: str | None, host: str | None = None, port: int | None = None
    ) -> asyncpg.Connection:
        url = self._url.set(database=database, host=host or self._url.host, port=port or self._url.port)
        return await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))


SHARDS = 4  # few, so that a database is made soon
