"""A real Citus, where there is one: CHATAPI_TEST_CITUS_URL is the URL of its coordinator, as a superuser (CONTRIBUTING.md).

Its machines are stopped and killed only where CHATAPI_TEST_CITUS_DATA names their data directories, with colons between.
"""

import asyncio
import os
import subprocess
import uuid
from pathlib import Path
from typing import Literal

import asyncpg
from sqlalchemy import make_url

from chatapi.db.distribution import distribute_all
from chatapi.db.schema import upgrade
from tests.support.postgres import ROLE, kill, processes_of
from tests.support.serving import CITUS, SLOW_MACHINE, settings_for

DATA = "CHATAPI_TEST_CITUS_DATA"
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

    def admin_url(self, database: str) -> str:
        """As the superuser, for whom row-level security does not hold."""
        return self.url(database, role=str(self._url.username))

    @property
    def port(self) -> int:
        """The coordinator's."""
        return self._url.port or 5432

    async def execute(self, statement: str) -> None:
        """Run a statement at the coordinator as the superuser."""
        connection = await self._connect(self._url.database)
        await connection.execute(statement)
        await connection.close()

    async def end_sessions(self, database: str) -> None:
        """End all sessions of a database at the workers."""
        for host, port in (await self._places())[1:]:
            connection = await self._connect(self._url.database, host, port)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'",
                database,
            )
            await connection.close()

    async def port_of(self, database: str, user_id: str) -> int:
        """The port of the worker that has the user's rows."""
        connection = await self._connect(database)
        port: int = await connection.fetchval(
            "SELECT nodeport FROM citus_shards "
            "WHERE shardid = get_shard_id_for_distribution_column('users', $1::text)",
            user_id,
        )
        await connection.close()
        return port

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
        return [(str(self._url.host), self.port), *(tuple(each) for each in workers)]

    async def _make(self, name: str) -> None:
        places = await self._places()
        await asyncio.gather(*(self._make_at(name, *place) for place in places))
        made = await self._connect(name)
        try:
            await made.execute("SELECT citus_set_coordinator_host($1, $2)", *places[0])
            for place in places[1:]:
                await made.execute("SELECT citus_add_node($1, $2)", *place)
        finally:
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


class Machine:
    """A running server of the cluster, by its data directory."""

    def __init__(self, directory: Path) -> None:
        pid, _, _, port, *_ = (directory / "postmaster.pid").read_text().splitlines()
        self.port = int(port)
        self._directory = directory
        self._control = Path(f"/proc/{pid}/exe").resolve().with_name("pg_ctl")
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        self._environ = dict(each.split(b"=", 1) for each in environ if b"=" in each)

    @classmethod
    def of_environment(cls) -> "list[Machine]":
        return [cls(Path(each)) for each in os.environ.get(DATA, "").split(":") if each]

    def end(self, how: Literal["stopped", "killed"]) -> None:
        """Stop it in order, or kill all its processes as if its machine had no power."""
        if how == "stopped":
            self._run("-m", "fast", "stop")
        else:
            kill(processes_of(int((self._directory / "postmaster.pid").read_text().splitlines()[0])))

    def start(self) -> None:
        """Start it again; returns when it takes connections."""
        self._run("-l", str(self._directory / "log"), "start")

    def _run(self, *arguments: str) -> None:
        owner = self._directory.stat()
        is_root = os.getuid() == 0  # as whom PostgreSQL does not run
        subprocess.run(
            [self._control, "-w", "-D", self._directory, *arguments],
            cwd=self._directory,
            env=self._environ,  # not root's: a server connects to others with what is in its HOME
            stdout=subprocess.DEVNULL,
            check=True,
            user=owner.st_uid if is_root else None,
            group=owner.st_gid if is_root else None,
        )


SHARDS = 4  # few, so that a database is made soon
