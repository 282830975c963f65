"""A real PgBouncer in transaction mode, from deploy/pgbouncer.ini. It has TLS, which the tests' PostgreSQL lacks."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from tests.support.postgres import ROLE, Postgres, free_port
from tests.support.serving import REPOSITORY

# PGBOUNCER names another than the one that is installed.
PROGRAM = (
    os.environ.get("PGBOUNCER") or shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
)


class PgBouncer:
    """Stands before one database of a `Postgres`, with as few connections to it as `pool_size`.

    With `prepared` it knows prepared statements, which takes 1.21. With a certificate and its key it takes encrypted
    connections only.
    """

    def __init__(
        self,
        postgres: Postgres,
        database: str,
        *,
        pool_size: int,
        prepared: bool = False,
        certificate: bytes | None = None,
    ) -> None:
        assert PROGRAM
        self.port = free_port()
        self.url = f"{postgres.url(database, port=self.port)}?pgbouncer={'false' if prepared else 'true'}"
        # Not below pytest's own directory: PgBouncer refuses to run as root, and others cannot read there.
        self._directory = Path(tempfile.mkdtemp(prefix="chatapi-pgbouncer-"))
        self._directory.chmod(0o755)
        users = self._directory / "userlist.txt"
        users.write_text(f'"{ROLE}" ""\n')
        config = (REPOSITORY / "deploy/pgbouncer.ini").read_text()
        for pattern, replacement in {
            r"^chatapi = .*$": f"{database} = host=127.0.0.1 port={postgres.port}",
            r"^listen_addr = .*$": "listen_addr = 127.0.0.1",
            r"^listen_port = .*$": f"listen_port = {self.port}\nunix_socket_dir =",
            r"^auth_type = .*$": "auth_type = trust",  # as the PostgreSQL of the tests has no passwords
            r"^auth_file = .*$": f"auth_file = {users}",
            r"^default_pool_size = .*$": f"default_pool_size = {pool_size}",
        }.items():
            config, count = re.subn(pattern, replacement, config, flags=re.MULTILINE)
            assert count == 1, pattern
        if knows_prepared_statements():
            config += f"max_prepared_statements = {200 if prepared else 0}\n"
        if certificate is not None:
            keys = self._directory / "server.pem"
            keys.write_bytes(certificate)
            config += (
                f"client_tls_sslmode = require\nclient_tls_key_file = {keys}\nclient_tls_cert_file = {keys}\n"
            )
        (self._directory / "pgbouncer.ini").write_text(config)
        self._process = subprocess.Popen(
            [PROGRAM, "--quiet", str(self._directory / "pgbouncer.ini")],
            user="nobody" if os.geteuid() == 0 else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory)

    def _wait(self) -> None:
        while True:
            assert self._process.poll() is None, "pgbouncer ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)


@cache
def knows_prepared_statements() -> bool:
    """Whether it is 1.21 or newer; Debian 12 has 1.18."""
    if PROGRAM is None:
        return False
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"PgBouncer (\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= (1, 21)
