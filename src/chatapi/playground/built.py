"""The built page and its files. They are made from `frontend/` and kept compressed; CONTRIBUTING.md says how to build."""

import gzip
import hashlib
from functools import cache
from mimetypes import guess_type
from pathlib import Path

from msgspec import Struct

STATIC = Path(__file__).parent / "static"
COMPRESSED = ".gz"


class Asset(Struct, frozen=True):
    """A file of the page; its name holds a hash of its content, so it never changes."""

    media_type: str
    compressed: bytes

    @property
    def plain(self) -> bytes:
        return gzip.decompress(self.compressed)


@cache
def assets() -> dict[str, Asset]:
    """The files by name. Nothing else is served, whatever a path says."""
    return {
        path.name.removesuffix(COMPRESSED): Asset(
            guess_type(path.name.removesuffix(COMPRESSED))[0] or "application/octet-stream", path.read_bytes()
        )
        for path in (STATIC / "assets").glob(f"*{COMPRESSED}")
    }


@cache
def page() -> bytes:
    return (STATIC / "index.html").read_bytes()


@cache
def etag() -> str:
    """The page's entity tag, in quotes as in the header."""
    return f'"{hashlib.sha256(page()).hexdigest()[:16]}"'
