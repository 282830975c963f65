"""The documentation site: that its links lead somewhere is seen when `make check` builds it; here, what it is made of."""

import tomllib
from pathlib import Path
from typing import Any

from chatapi.app import create_app
from tests.support.serving import REPOSITORY, settings_for
from website import build
from website.reference import reference


def paths(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [path for each in (nav.values() if isinstance(nav, dict) else nav) for path in paths(each)]


def test_every_document_is_reached() -> None:
    nav = set(paths(tomllib.loads((REPOSITORY / "zensical.toml").read_text())["project"]["nav"]))
    pages = {str(page) for page in build.pages().values()}
    decisions = {
        page for page in pages if page.startswith("adr/") and page != "adr/index.md"
    }  # by their index
    assert pages - decisions | {"reference.md"} == nav


def test_the_reference_has_every_route_with_every_status() -> None:
    text = reference()
    paths = create_app(settings_for("postgresql://localhost/unused")).openapi_schema.to_schema()["paths"]
    statuses = 0
    for path, described in paths.items():
        for method, operation in described.items():
            section = text.split(f"### {method.upper()} {path}\n", 1)[1].split("\n### ")[0]
            for status in operation["responses"]:
                assert f"\n| {status} " in section, (method, path, status)
                statuses += 1
    assert statuses > 100
    assert "### Page of Task\n" in text


def test_links_become_links_among_pages_and_files_go_along(tmp_path: Path) -> None:
    known = build.pages()
    document = REPOSITORY / "docs/adr/README.md"
    text = build.relinked(REPOSITORY / "README.md", Path("index.md"), known, tmp_path)
    assert "](api.md)" in text
    assert "](adr/index.md)" in text
    assert "](docs/" not in text
    assert "](files/Containerfile.txt)" in text
    assert (tmp_path / "files/Containerfile.txt").read_text() == (REPOSITORY / "Containerfile").read_text()
    assert known[document] == Path("adr/index.md")
