"""The catalogue of errors: the table in docs/errors.md.

.venv/bin/python -m website.problems
"""

from collections.abc import Iterator

from chatapi.errors.base import catalogue
from website.modules import REPOSITORY

DOCUMENT = REPOSITORY / "docs/errors.md"
HEAD = "| type | status | when | what to do |\n|---|---|---|---|\n"


def rows() -> Iterator[str]:
    for kind in catalogue():
        yield f"| `{kind.type}` | {kind.status} | {kind.when} | {kind.remedy} |\n"


def document() -> str:
    """The document as it ought to be."""
    before, _, after = DOCUMENT.read_text().partition(HEAD)
    *_, rest = after.partition("\n\n")
    return before + HEAD + "".join(rows()) + "\n" + rest


if __name__ == "__main__":
    DOCUMENT.write_text(document())
