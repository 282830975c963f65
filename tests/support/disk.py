"""A small disk of its own, which can be filled."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Write until there is no room for another byte."""
        with self._filler.open("ab", buffering=0) as filler:
            for size in (65_536, 4_096, 1):
                while self._write(filler.fileno(), b"\0" * size):
                    pass

    def free(self) -> None:
        self._filler.unlink()

    @staticmethod
    def _write(descriptor: int, content: bytes) -> bool:
        try:
            os.write(descriptor, content)
        except OSError:
            return False
        return True


@contextmanager
def small_disk(size: str) -> Iterator[Disk]:
    """A disk of this size in memory; skips the test if mounting is not allowed."""
    # Not below pytest's directory: PostgreSQL's user must be able to reach it.
    path = Path(tempfile.mkdtemp(prefix="chatapi-disk-"))
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        path.rmdir()
        pytest.skip("a file system cannot be mounted here")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()
