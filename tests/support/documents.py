"""The commands of a document, by its headings, and a function that runs them unchanged."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.serving import REPOSITORY, clean_environ


def commands_under(document: str, *headings: str) -> list[str]:
    """The `sh` blocks of docs/`document` below each of these headings, which follow each other in it."""
    text = (REPOSITORY / "docs" / document).read_text()
    for depth, heading in enumerate(headings, start=2):
        mark = "#" * depth
        sections = re.split(rf"^{mark} (.+)$", text, flags=re.MULTILINE)
        text = dict(zip(sections[1::2], sections[2::2], strict=True))[heading]
        text = re.split(rf"^#{{1,{depth}}} ", text, flags=re.MULTILINE)[0]
    return re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def looks_installed(directory: Path) -> None:
    """Make `.venv/bin/chatapi` and `.venv/bin/python` in a directory."""
    bin_ = directory / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for name, arguments in {"chatapi": "-m chatapi", "python": ""}.items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (bin_ / name).chmod(0o755)


def run_commands(commands: list[str], directory: Path, environ: Mapping[str, str]) -> str:
    """Run them as one script, and return its output."""
    result = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + "\n".join(commands)],
        cwd=directory,
        env={**clean_environ(), **environ},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout
