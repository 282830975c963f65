"""Gathers the pages of the documentation site in build/docs, and builds it.

The documents stay where they are and as they are: links among them become links among pages, what they link to
beside them (a configuration, a source) goes along as a file, and the reference is made from the OpenAPI document.

    .venv/bin/python -m website.build
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from website.reference import reference

REPOSITORY = Path(__file__).parents[1]
STAGE = REPOSITORY / "build/docs"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)


def pages() -> dict[Path, Path]:
    """Each document, and its page."""
    found = {
        REPOSITORY / "README.md": Path("index.md"),
        REPOSITORY / "CONTRIBUTING.md": Path("contributing.md"),
        REPOSITORY / "CHANGELOG.md": Path("changelog.md"),
    }
    docs = REPOSITORY / "docs"
    for document in sorted(docs.glob("**/*.md")):
        page = document.relative_to(docs)
        found[document] = page.with_name("index.md") if page.name == "README.md" else page
    return found


def gather(stage: Path) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    known = pages()
    for document, page in known.items():
        put(stage / page, relinked(document, page, known, stage))
    put(stage / "reference.md", reference())


def relinked(document: Path, page: Path, known: dict[Path, Path], stage: Path) -> str:
    """The text of a document with its links as the page needs them."""

    def link(found: re.Match[str]) -> str:
        target = (document.parent / found[1]).resolve()
        to = known.get(target) or along(target, stage)
        return os.path.relpath(stage / to, (stage / page).parent) + (found[2] or "")

    parts = FENCED.split(document.read_text())
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def along(file: Path, stage: Path) -> Path:
    """A file that is no page goes along under its own name: a picture as it is, another as text, which a browser shows."""
    if file.suffix == ".png":
        shutil.copy(file, stage / file.name)
        return Path(file.name)
    path = Path("files") / f"{file.relative_to(REPOSITORY)}.txt"
    put(stage / path, file.read_text())
    return path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def main() -> int:
    gather(STAGE)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
