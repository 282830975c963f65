"""The rules of the house that a program can check: what CONTRIBUTING and the documents say of the code is so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.serving import REPOSITORY

CODE = ("src", "tests", "benchmarks", "migrations", "website")


def modules() -> Iterator[Path]:
    return (path for room in CODE for path in (REPOSITORY / room).rglob("*.py"))


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
