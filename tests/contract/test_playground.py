"""The built page is of the sources beside it, small, and whole by itself."""

import gzip
import hashlib
import os
import re
from pathlib import Path

import pytest

from chatapi.playground.built import STATIC, assets, page
from tests.support import npm
from tests.support.serving import REPOSITORY

FRONTEND = REPOSITORY / "frontend"
# As in frontend/vite.config.ts.
SOURCES = [
    "src",
    "index.html",
    "package-lock.json",
    "tsconfig.json",
    "vite.config.ts",
    "../packages/ai-sdk/src",
]
REBUILD = "run: cd frontend && npm ci && npm run build"
LARGEST = 250 * 1024  # what a page may load, compressed


def test_is_built_of_the_sources_as_they_are() -> None:
    """Also where there is no Node."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {os.path.relpath(path, FRONTEND)}\n"
        for source in SOURCES
        for path in files_in(FRONTEND / source)
    ]
    assert (STATIC / "sources.sha256").read_text().strip() == (
        hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    ), REBUILD


def files_in(path: Path) -> list[Path]:
    return [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]


def test_is_small_and_loads_nothing_from_elsewhere() -> None:
    text = page().decode()
    assert len(page()) + sum(len(asset.compressed) for asset in assets().values()) < LARGEST
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert {address.removeprefix("/playground/assets/") for address in loaded} == set(assets())
    assert not re.search(r"<script(?![^>]* src=)|<style|style=|\son\w+=", text)


def test_has_a_small_picture_for_the_readme() -> None:
    assert "docs/playground.png" in (REPOSITORY / "README.md").read_text()
    assert (REPOSITORY / "docs/playground.png").stat().st_size < 100 * 1024


@pytest.mark.slow
def test_built_again_is_the_same_to_the_byte(tmp_path: Path) -> None:
    if why := npm.missing("the page's build"):
        pytest.skip(why)
    npm.install(FRONTEND)
    npm.run(["npx", "tsc"], FRONTEND)
    npm.run(["npx", "vite", "build", "--outDir", str(tmp_path), "--emptyOutDir"], FRONTEND)
    built = {str(path.relative_to(tmp_path)): content_of(path) for path in files_in(tmp_path)}
    assert built == {str(path.relative_to(STATIC)): content_of(path) for path in files_in(STATIC)}, REBUILD


def content_of(path: Path) -> bytes:
    """Uncompressed, since versions of zlib may differ."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
