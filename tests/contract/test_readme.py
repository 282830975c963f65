"""The documents say what is so: their commands run, their outputs are real, their links and tables hold.

How a document is written to be run is in CONTRIBUTING.md, under "Documents".
"""

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatapi.errors.base import catalogue
from chatapi.settings import Settings
from tests.support.postgres import Postgres, free_port
from tests.support.serving import REPOSITORY, SECRET, clean_environ
from website import problems

README = REPOSITORY / "README.md"
FRONTEND = REPOSITORY / "docs/frontend.md"
DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("findings/*.md")]
)
SHOWN_URL = "http://127.0.0.1:8000"
SHOWN_DATABASE_URL = "postgresql://user:password@host/database?sslmode=require"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
END_OF_BLOCK = "--- end of block ---"

# `make` starts the service in the background, in place of the one before; its other targets have only to exist.
PRELUDE = """\
SERVICE=
stop() {{ if [ "$SERVICE" ]; then kill "$SERVICE"; wait "$SERVICE"; fi; }}
trap stop EXIT
make() {{
  grep -q "^$1:" '{repository}/Makefile'
  [ "$1" = run ] || return 0
  stop
  '{python}' -m chatapi run --port {port} >> service.log 2>&1 & SERVICE=$!
  for _ in {{1..900}}; do
    if curl -s --fail -o /dev/null {url}/health/ready; then return 0; fi
    kill -0 "$SERVICE"
    sleep 0.1
  done
  return 1
}}
"""


class Block(msgspec.Struct, frozen=True):
    """A fenced block: ```language, and what is in it."""

    language: str
    text: str


def blocks_of(document: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in found]


@pytest.mark.slow
class TestCommands:
    @pytest.mark.parametrize(
        "document",
        [README, REPOSITORY / "docs/api.md", REPOSITORY / "docs/openai.md", FRONTEND],
        ids=lambda path: path.name,
    )
    def test_print_what_the_document_shows(self, document: Path, directory: Path, postgres: Postgres) -> None:
        blocks = blocks_of(document)
        for block in blocks:
            if block.language == "python" and (name := re.match(r"# (\w+\.py)\n", block.text)):
                (directory / name[1]).write_text(block.text)
        commands = [block.text for block in blocks if block.language == "sh"]
        database_url = postgres.url(postgres.new_database(migrated=False))
        printed = run(directory, [text.replace(SHOWN_DATABASE_URL, database_url) for text in commands])

        compared = 0
        answers = iter(printed)
        answer = ""
        for block in blocks:
            match block.language:
                case "sh":
                    answer = next(answers)
                case "json":
                    assert json_values(normal(answer)) == json_values(normal(block.text)), answer
                    compared += 1
                case "console":
                    assert normal(answer) == normal(block.text), diff(block.text, answer)
                    compared += 1
        assert compared >= 3

    def test_a_block_is_of_a_kind_that_is_known(self) -> None:
        for document in DOCUMENTS:
            languages = {block.language for block in blocks_of(document)}
            known = {"sh", "json", "console", "python", "text"}
            assert languages <= known | ({"js", "jsx"} if document == FRONTEND else set()), document

    def test_a_program_for_browsers_has_a_name_by_which_a_test_runs_it(self) -> None:
        """In Node: tests/integration/test_ai_sdk.py."""
        programs = [block.text for block in blocks_of(FRONTEND) if block.language in {"js", "jsx"}]
        names = [match[1] for text in programs if (match := re.match(r"// (\w+\.jsx?)\n", text))]
        assert len(names) == len(programs)
        assert names == ["app.js", "Chat.jsx", "Assistant.jsx", "read.js"]


def run(directory: Path, commands: list[str]) -> list[str]:
    """Run the commands as one script in an empty directory that looks installed; what each printed."""
    bin_ = directory / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for name, arguments in {"chatapi": "-m chatapi", "python": ""}.items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (bin_ / name).chmod(0o755)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = PRELUDE.format(repository=REPOSITORY, python=sys.executable, port=port, url=url)
    for command in commands:
        script += command.replace(SHOWN_URL, url) + f"\necho; echo '{END_OF_BLOCK}'\n"
    result = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=directory,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    log = directory / "service.log"
    assert result.returncode == 0, (
        f"{result.stdout}\n{result.stderr}\n{log.read_text() if log.exists() else ''}"
    )
    *printed, rest = result.stdout.split(f"{END_OF_BLOCK}\n")
    assert (len(printed), rest) == (len(commands), "")
    return printed


def normal(text: str) -> str:
    """Without what differs from run to run, and without spaces and line ends where nobody sees them."""
    lines = [line.rstrip() for line in TIMESTAMP.sub("<a moment>", text).splitlines()]
    return "\n".join(lines).strip()


def json_values(text: str) -> list[Any]:
    """One value after the other, with or without space between."""
    values: list[Any] = []
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        values.append(value)
        position += len(text[position:]) - len(text[position:].lstrip())
    return values


def diff(shown: str, printed: str) -> str:
    return "\n".join(difflib.unified_diff(normal(shown).splitlines(), normal(printed).splitlines()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def anchors_of(document: Path) -> set[str]:
    """As GitHub and others make them of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def rows_of(document: Path) -> Iterator[tuple[str, list[str]]]:
    """Rows of tables whose first cell is a `name`: the name, and the other cells."""
    for line in document.read_text().splitlines():
        if row := re.fullmatch(r"\| `([^`]+)` \| (.+) \|", line):
            yield row[1], row[2].split(" | ")


class TestConfigurationTable:
    def test_names_every_variable_in_the_order_of_the_settings(self) -> None:
        assert [name for name, _ in rows_of(README)] == list(Settings.__struct_encode_fields__)

    def test_gives_the_defaults_that_are_in_force(self, directory: Path) -> None:
        shown = {
            name: default.strip("`")
            for name, (default, _) in rows_of(README)
            if re.fullmatch(r"`[^`]+`", default)
        }
        assert len(shown) >= 8
        given = {"BETTER_AUTH_SECRET": SECRET}
        assert Settings.from_env({**given, **shown}, directory=directory) == Settings.from_env(
            given, directory=directory
        )


class TestErrors:
    def test_are_documented_each_with_its_status(self) -> None:
        problems = {kind.type: kind.status for kind in catalogue()}
        documented = {name: int(cells[0]) for name, cells in rows_of(REPOSITORY / "docs/errors.md")}
        assert documented == problems

    def test_are_documented_in_the_words_of_the_catalogue(self) -> None:
        assert problems.DOCUMENT.read_text() == problems.document(), (
            "run: .venv/bin/python -m website.problems"
        )
