"""What one run of the tests shares, though it may have several processes: a directory, in memory where there is room."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "CHATAPI_TEST_RUN"
MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; a run takes about a quarter of them


def begin() -> None:
    """Make the directory, and name it to the processes that this one starts."""
    os.environ[VARIABLE] = str(new_directory("tests"))


def end() -> None:
    shutil.rmtree(of_run())


def of_run() -> Path:
    return Path(os.environ[VARIABLE])


def directory(name: str) -> Path:
    """A new one, which goes with the run."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=of_run()))


def new_directory(name: str) -> Path:
    """In memory where there is room: on a disk, databases wait for it with each commit, and nothing here tests that."""
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    path = Path(tempfile.mkdtemp(prefix=f"chatapi-{name}-", dir=MEMORY if in_memory else None))
    path.chmod(0o755)  # for the user that PostgreSQL runs as
    return path


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of all processes of the run."""
    with (of_run() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
