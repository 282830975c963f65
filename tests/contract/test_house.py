"""The rules of the house that a program can check: what CONTRIBUTING and the documents say of the code is so."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.scenarios import SCENARIOS
from chatapi.account.service import EXPORTED
from chatapi.db.models import User
from tests.support.serving import REPOSITORY
from website import modules as listing

CODE = ("src", "tests", "benchmarks", "migrations", "website")


def modules() -> Iterator[Path]:
    """Ours: packages from npm bring modules of their own."""
    found = (path for room in CODE for path in (REPOSITORY / room).rglob("*.py"))
    return (path for path in found if "node_modules" not in path.parts)


class TestProse:
    def test_no_comment_and_no_docstring_says_a_word_twice(self) -> None:
        twice = re.compile(r"\b([a-z']{2,})\s+\1\b", re.I)
        found = [
            f"{path.relative_to(REPOSITORY)}: {match[0]}"
            for path in modules()
            for text in prose_of(path)
            for match in twice.finditer(text)
        ]
        assert found == []

    def test_no_name_of_a_module_is_given_a_value_twice(self) -> None:
        for path in modules():
            names = [
                target.id
                for statement in ast.parse(path.read_text()).body
                if isinstance(statement, ast.Assign)
                for target in statement.targets
                if isinstance(target, ast.Name)
            ]
            assert len(names) == len(set(names)), path


def prose_of(path: Path) -> Iterator[str]:
    """A module's docstrings, and its comments, of which those on lines that follow each other are one."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for block in re.findall(r"(?:^\s*#.*\n)+", source, re.M):
        yield re.sub(r"^\s*#", "", block, flags=re.M)


class TestLint:
    def test_each_exception_in_the_code_has_its_reason(self) -> None:
        reasoned = re.compile(r"noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \S")
        bare = [
            f"{path.relative_to(REPOSITORY)}: {line.strip()}"
            for path in modules()
            for line in path.read_text().splitlines()
            if (found := line.rpartition("  # ")[2]).startswith("noqa") and not reasoned.match(found)
        ]
        assert bare == []

    def test_each_exception_in_the_configuration_has_its_reason(self) -> None:
        text = (REPOSITORY / "pyproject.toml").read_text()
        ignored = re.search(r"^ignore = \[\n(.*?)^\]", text, re.M | re.S)
        by_file = re.search(r"per-file-ignores\]\n(.*?)\n\n", text, re.S)
        assert ignored is not None
        assert by_file is not None
        rules = [line for line in ignored[1].splitlines() if line.strip()]
        assert [line for line in rules if not re.search(r'",\s+# \w', line)] == []
        # A list of rules is opened on one line, has a reason on each, and is closed on another.
        files = [line for line in by_file[1].splitlines() if not re.fullmatch(r'"\S+" = \[|\]', line)]
        assert [line for line in files if not re.search(r'(?:\]|",)\s+# \w', line)] == []


# A module of `src` has at most so many lines, and a function so many, but where it has a reason to be longer.
MODULE_LINES = 350
FUNCTION_LINES = 50
LONGER = {
    "agent/llm.py": "an answer from several models is one story: ask, call tools, try again, go on to another",
    "agent/ports.py": "all that an assistant of one's own has to know, in one place",
    "db/models.py": "every table there is",
    "services.py of": "everything that is made, in order",
    "settings.py": "every setting there is, with its check beside it",
    "db/sqlite.py": "a dialect of SQLAlchemy's, and what it stands on: one log, its syncs and its locks",
    "metrics.py __init__": "every metric there is",
    "agent/schemas.py": "one rule after the other of what providers do not take in a schema, and the walk over them",
    "turns/store/postgres.py": "the two transactions of a turn, each as one statement, read beside each other",
    "turns/store/postgres.py begin_next": "one SQL statement",
    "turns/store/postgres.py finish_turn": "one SQL statement",
    "turns/store/sqlite.py": "the same two transactions on SQLite",
}


class TestSize:
    def test_nothing_is_long_without_a_reason(self) -> None:
        found = {name for name, lines, most in lengths() if lines > most}
        assert found == set(LONGER)


def lengths() -> Iterator[tuple[str, int, int]]:
    """Each module and each function of `src`, how long it is, and how long it may be."""
    for path in listing.PACKAGE.rglob("*.py"):
        name = str(path.relative_to(listing.PACKAGE))
        source = path.read_text()
        yield name, len(source.splitlines()), MODULE_LINES
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{name} {node.name}", node.end_lineno - node.lineno + 1, FUNCTION_LINES


class TestPatches:
    """What a test wants different is an argument, or it gets the object from `Services`."""

    def test_none_is_of_a_constant_a_default_or_of_how_an_object_is_made(self) -> None:
        forbidden = re.compile(r"[A-Z][A-Z0-9_]*|__init__|__defaults__|__kwdefaults__")
        found = [
            f"{path.relative_to(REPOSITORY)}: {ast.unparse(call)}"
            for path in (REPOSITORY / "tests").rglob("*.py")
            if "node_modules" not in path.parts
            for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            for name in patched_names(call)
            if forbidden.fullmatch(name)
        ]
        assert found == []

    def test_none_is_an_assignment_to_somebody_elses_constant(self) -> None:
        found = [
            f"{path.relative_to(REPOSITORY)}: {ast.unparse(target)}"
            for path in (REPOSITORY / "tests").rglob("*.py")
            if "node_modules" not in path.parts
            for statement in ast.walk(ast.parse(path.read_text()))
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Attribute) and target.attr.isupper()
        ]
        assert found == []


def patched_names(call: ast.Call) -> Iterator[str]:
    """The names that a call of `setattr`, `setitem` or `patch` patches, as far as they are written out."""
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr in {"setattr", "delattr"}:
        for argument in call.args[:2]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value.rpartition(".")[2]
    elif call.func.attr == "setitem" and isinstance(call.args[0], ast.Attribute):
        yield call.args[0].attr


PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DOCS = REPOSITORY / "docs"


def first_cells(document: Path) -> Iterator[tuple[str, list[str]]]:
    """The rows of a document's tables: the first cell, and the others."""
    for line in document.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            first, *others = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            yield first.strip(), [other.strip() for other in others]


class TestArchitecture:
    text = (DOCS / "architecture.md").read_text()

    def test_has_a_line_for_each_module_which_is_the_first_of_its_docstring(self) -> None:
        assert self.text == listing.document(), "run: .venv/bin/python -m website.modules"

    def test_has_a_row_for_each_room(self) -> None:
        rooms = {
            path.name.removesuffix(".py") for path in listing.PACKAGE.iterdir() if path.suffix in {"", ".py"}
        }
        table = self.text.partition("## The rooms")[2].partition("## ")[0]
        cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        assert set(re.findall(r"`(\w+)`", " ".join(cells))) == rooms - {"__init__", "__pycache__"}

    def test_has_the_arrow_that_import_linter_checks(self) -> None:
        contract = PROJECT["tool"]["importlinter"]["contracts"][0]
        layers = [layer for layer in contract["layers"] if layer != "__main__"]
        assert re.findall(r"```text\n(.+)\n```", self.text) == [" > ".join(layers)]

    def test_names_each_table(self) -> None:
        tables = self.text.partition("## The tables")[2].partition("\n## ")[0]
        assert set(re.findall(r"`(\w+)`", tables)) == {*User.metadata.tables, "user_id"}

    def test_sends_nobody_to_a_file_that_there_is_not(self) -> None:
        named = set(
            re.findall(r"`([\w/]+\.py)`", self.text.partition("## To change X")[2].partition("\n## ")[0])
        )
        assert len(named) >= 8
        assert [
            name
            for name in named
            if not any((root / name).exists() for root in (listing.PACKAGE, REPOSITORY))
        ] == []


class TestListsInDocuments:
    def test_of_an_exports_records_are_those_of_an_export(self) -> None:
        told = (
            (DOCS / "security.md")
            .read_text()
            .partition("as lines of JSON: ")[2]
            .partition(" records, and")[0]
        )
        of_header = {"export", "version", "user_id"}
        told_records = [name for name in re.findall(r"`(\w+)`", told) if name not in of_header]
        assert told_records == [record for record, _, _ in EXPORTED]

    def test_of_scenarios_are_those_of_the_benchmark(self) -> None:
        table = (DOCS / "performance.md").read_text().partition("| scenario |")[2].partition("\n\n")[0]
        cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(SCENARIOS)


class TestChanges:
    """The table of CONTRIBUTING: where each kind of change is made, and which test misses what was forgotten."""

    ROWS = re.findall(
        r"^\| an? (.+)\|$", (REPOSITORY / "CONTRIBUTING.md").read_text().partition("## Ten changes")[2], re.M
    )

    def test_are_ten(self) -> None:
        assert len(self.ROWS) == 10

    @pytest.mark.parametrize("row", ROWS, ids=lambda row: row.partition("|")[0].strip().replace(" ", "-"))
    def test_names_files_and_tests_that_there_are(self, row: str) -> None:
        _, made, told, fails = row.split("|")
        for file in re.findall(r"`([\w./]+\.(?:py|md|example))`", made + told):
            assert (listing.PACKAGE / file).exists() or (REPOSITORY / file).exists(), file
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", fails)
        assert tests
        for file, name in tests:
            assert re.search(rf"^(class|def|async def) {name}\b", (REPOSITORY / file).read_text(), re.M), name


class TestDependencies:
    def test_have_a_row_each_that_says_what_was_passed_over(self) -> None:
        project = PROJECT["project"]
        groups = [
            project["dependencies"],
            PROJECT["build-system"]["requires"],
            *project["optional-dependencies"].values(),
            *PROJECT["dependency-groups"].values(),
        ]
        wanted = {Requirement(each).name for group in groups for each in group if isinstance(each, str)}
        rows = {
            name: cells
            for first, cells in first_cells(DOCS / "dependencies.md")
            if not first.endswith(("(npm)", "(Debian)"))
            for name in re.findall(r"`([\w-]+)(?:\[[\w,]+\])?`", first)
        }
        assert set(map(canonicalize_name, rows)) == set(map(canonicalize_name, wanted - {project["name"]}))
        assert [name for name, (_, passed_over) in rows.items() if not passed_over] == []


class TestDecisions:
    RECORDS = sorted(path for path in (DOCS / "adr").glob("*.md") if path.name != "README.md")

    def test_are_numbered_without_a_gap(self) -> None:
        assert [path.name[:5] for path in self.RECORDS] == [
            f"{n:04}-" for n in range(1, len(self.RECORDS) + 1)
        ]

    @pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name[:4])
    def test_have_the_parts_of_the_template(self, record: Path) -> None:
        text = record.read_text()
        head = rf"# {record.name[:4]}: .+\n\n- Status: (accepted|superseded by .+)\n- Date: \d{{4}}-\d\d-\d\d\n\n## "
        assert re.match(head, text)
        parts = ["Context", "Decision", "Consequences", "Passed over", "Code"]
        assert re.findall(r"^## (.+)$", text, re.M) == parts

    @pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name[:4])
    def test_name_code_that_there_is(self, record: Path) -> None:
        files = re.findall(r"`([\w/]+\.py)`", record.read_text().partition("## Code")[2])
        assert files
        assert [file for file in files if not (listing.PACKAGE / file).exists()] == []

    def test_are_listed_by_their_titles(self) -> None:
        titles = [path.read_text().partition("\n")[0].removeprefix("# ") for path in self.RECORDS]
        lines = [
            f"- [{title[:4]}]({path.name}){title[4:]}"
            for title, path in zip(titles, self.RECORDS, strict=True)
        ]
        assert re.findall(r"^- .+$", (DOCS / "adr/README.md").read_text(), re.M) == lines


def test_the_proxies_that_are_believed_are_a_variable_that_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    default = uvicorn.Config(lambda: None).forwarded_allow_ips
    assert f"#FORWARDED_ALLOW_IPS={default}\n" in (REPOSITORY / ".env.example").read_text()
    readme = (REPOSITORY / "README.md").read_text()
    assert "`FORWARDED_ALLOW_IPS`" in readme
    assert f"`{default}`" in readme
