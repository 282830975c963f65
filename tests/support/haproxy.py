"""A real HAProxy before replicas, from deploy/haproxy.cfg."""

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from tests.support.postgres import free_port
from tests.support.serving import REPOSITORY

PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


class HAProxy:
    """HAProxy with the file's configuration, except for its ports and the addresses of its replicas."""

    def __init__(self, directory: Path, replicas: Sequence[int]) -> None:
        assert PROGRAM
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = (REPOSITORY / "deploy/haproxy.cfg").read_text()
        config, binds = re.subn(r"bind :8080", f"bind 127.0.0.1:{self.port}", config)
        addresses = cycle(replicas)
        config, servers = re.subn(
            r"^(    server \w+) \w+:8000$",
            lambda line: f"{line[1]} 127.0.0.1:{next(addresses)}",
            config,
            flags=re.MULTILINE,
        )
        assert (binds, servers) == (1, len(replicas) * 2)  # in each backend
        self._stats = free_port()
        config = config.replace(
            "global\n", f"global\n    stats socket ipv4@127.0.0.1:{self._stats} level user\n", 1
        )
        file = directory / "haproxy.cfg"
        file.write_text(config)
        self._process = subprocess.Popen(
            [PROGRAM, "-q", "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not self._listens():
            assert self._process.poll() is None, "haproxy ended"
            time.sleep(0.02)

    async def has_up(self, count: int) -> None:
        """Wait until HAProxy counts so many replicas as ready."""
        while await self._up() < count:  # noqa: ASYNC110 - HAProxy gives no notice
            await asyncio.sleep(0.05)

    async def _up(self) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._stats)
        writer.write(b"show servers state replicas\n")
        lines = (await reader.read()).decode().splitlines()
        writer.close()
        # Two lines come first, with the format and the names of the values. The sixth value of a server's line is its state.
        return sum(line.split()[5] == "2" for line in lines if "127.0.0.1" in line)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
