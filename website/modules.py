"""The modules of the package, each with the first line of its docstring: the end of docs/architecture.md.

.venv/bin/python -m website.modules
"""

import ast
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src/chatapi"
DOCUMENT = REPOSITORY / "docs/architecture.md"
HEADING = "## The modules\n"
INTRODUCTION = """
Each line is the first of the module's docstring; `.venv/bin/python -m website.modules` writes them here.
"""


def modules() -> list[Path]:
    """Those that hold something: most packages have an empty `__init__`."""
    return [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.read_text().strip()]


def promise_of(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse((PACKAGE / module).read_text()))
    if not docstring:
        raise ValueError(f"{module} needs a docstring, whose first line says what is in it")
    return docstring.partition("\n")[0].replace("|", "\\|")


def tables() -> Iterator[str]:
    """A table for each package, the modules beside them first."""
    for package, inside in groupby(
        sorted(modules(), key=lambda path: (path.parent, path.name)), lambda path: path.parent
    ):
        yield f"\n### {'.'.join(('chatapi', *package.parts))}\n\n| module | what it is |\n|---|---|\n"
        yield from (f"| `{module.stem}` | {promise_of(module)} |\n" for module in inside)


def document() -> str:
    """The document as it ought to be."""
    by_hand, *_ = DOCUMENT.read_text().partition(HEADING)
    return by_hand + HEADING + INTRODUCTION + "".join(tables())


if __name__ == "__main__":
    DOCUMENT.write_text(document())
