"""The directory that all processes of a test run share, in memory if there is room."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "CHATAPI_TEST_RUN"
MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; a run takes about a quarter of this


def begin() -> None:
    """Make the directory, and put its name into the environment for the processes that this one starts."""
    os.environ[VARIABLE] = str(new_directory("tests"))


def end() -> None:
    shutil.rmtree(of_run())


def of_run() -> Path:
    return Path(os.environ[VARIABLE])


def directory(name: str) -> Path:
    """A new directory, which is removed with the run's."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=of_run()))


def new_directory(name: str) -> Path:
    """A new directory, in memory if there is room: on a disk, each commit of a database waits, and no test needs that."""
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    path = Path(tempfile.mkdtemp(prefix=f"chatapi-{name}-", dir=MEMORY if in_memory else None))
    path.chmod(0o755)  # PostgreSQL's user must read there
    return path


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let only one process of the run into this block at a time."""
    with (of_run() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
