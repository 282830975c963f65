"""The service as it was before turns could wait, from the repository's history."""

import subprocess
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.support import run
from tests.support.serving import REPOSITORY, SECRET, Process

COMMIT = "405909a"  # the last one that knows no waiting


def missing() -> str | None:
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=REPOSITORY, capture_output=True, check=False
    )
    return None if found.returncode == 0 else f"the history of the repository with {COMMIT} is not here"


@cache
def source() -> Path:
    """Its files, in a directory of the run."""
    directory = run.directory("before")
    archive = directory / "source.tar"
    subprocess.run(
        ["git", "archive", "--output", archive, COMMIT, "src", "tests", "migrations"],
        cwd=REPOSITORY,
        check=True,
    )
    with tarfile.open(archive) as files:
        files.extractall(directory, filter="data")
    return directory


def process(directory: Path, database_url: str, environ: Mapping[str, str]) -> Process:
    """Its command, which makes the database if there is none, with the tests' assistant of its time."""
    return Process(
        directory,
        {
            "DATABASE_URL": database_url,
            "BETTER_AUTH_SECRET": SECRET,
            "MIGRATE": "auto",
            "CHAT_MODEL": "tests.support.agents:CommandedAgent",
            "PYTHONPATH": f"{source()}/src:{source()}",
            **environ,
        },
    )
