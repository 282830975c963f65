"""What a file is, by its bytes alone."""

import hashlib
from tempfile import TemporaryFile

import pytest

from chatapi.errors.base import AppError
from chatapi.errors.files import FileKindRefused
from chatapi.errors.requests import Invalid
from chatapi.files.kinds import Inspected, inspect
from chatapi.files.receiving import tidy_name
from tests.support.files import JSON, gif, jpeg, pdf, png, webp

BOM = b"\xef\xbb\xbf"
KINDS: dict[str, tuple[str, bytes, str]] = {
    "PNG": ("a.png", png(), "image/png"),
    "PNG with another name": ("a.txt", png(), "image/png"),
    "PNG with a zip behind it": ("a.png", png() + b"PK\x03\x04" + bytes(50), "image/png"),
    "JPEG": ("a.jpg", jpeg(), "image/jpeg"),
    "JPEG with its size far behind": ("a.jpg", jpeg(before=200_000), "image/jpeg"),
    "GIF": ("a.gif", gif(), "image/gif"),
    "WebP, lossy": ("a.webp", webp(b"VP8 "), "image/webp"),
    "WebP, lossless": ("a.webp", webp(b"VP8L"), "image/webp"),
    "WebP, extended": ("a.webp", webp(b"VP8X"), "image/webp"),
    "PDF": ("a.pdf", pdf("x"), "application/pdf"),
    "PDF after garbage": ("a.pdf", pdf("x", before=bytes(500)), "application/pdf"),
    "PDF after text": ("a.pdf", pdf("x", before=b"mail header\n" * 40), "application/pdf"),
    "PDF after a BOM": ("a.pdf", BOM + pdf("x"), "application/pdf"),
    "JSON, object": ("a.json", JSON, "application/json"),
    "JSON, list": ("a", b"[1, 2, 3]\n", "application/json"),
    "JSON after a BOM": ("a.json", BOM + JSON, "application/json"),
    "JSON that is cut": ("a.json", JSON[:-1], "text/plain"),
    "JSON that is too deep": ("a.json", b"[" * 200_000 + b"]" * 200_000, "text/plain"),
    "a list in prose": ("a.md", b"[x] is done\n", "text/markdown"),
    "lines of JSON": ("a.jsonl", b'{"a":1}\n{"a":2}\n', "text/plain"),
    "text": ("a.txt", b"x", "text/plain"),
    "text without a name": ("file", b"\n", "text/plain"),
    "text of several bytes a letter, over the edge of a piece": (
        "a.txt",
        b"x" + "ü".encode() * 200_000,
        "text/plain",
    ),
    "text about a PDF": ("a.txt", b"%PDF-1.7 is the mark of one", "text/plain"),
    "text about a GIF": ("a.txt", b"GIF89a is the name of a format", "text/plain"),
    "text with a script": ("a.md", b"# Title\n<script>alert(1)</script>", "text/markdown"),
    "Markdown": ("A.MD", b"# Title", "text/markdown"),
    "CSV": ("a.csv", b"a,b,c", "text/csv"),
    "CSV that says it is text": ("a.txt", b"a,b,c", "text/plain"),
}
REFUSED: dict[str, tuple[bytes, type[AppError], str]] = {
    "nothing": (b"", Invalid, "empty"),
    "a BOM alone": (BOM, Invalid, "empty"),
    "text with NUL": (b"a\0b", FileKindRefused, "control characters"),
    "text in Latin-1": ("Grüße".encode("latin-1"), FileKindRefused, "UTF-8"),
    "text in UTF-16": ("Grüße".encode("utf-16"), FileKindRefused, "UTF-8"),
    "text that is cut inside a letter": ("ü".encode()[:1], FileKindRefused, "UTF-8"),
    "a zip": (b"PK\x03\x04" + bytes(50), FileKindRefused, "control"),
    "a program": (b"\x7fELF" + bytes(50), FileKindRefused, "control"),
    "a PNG's mark alone": (b"\x89PNG\r\n\x1a\n", FileKindRefused, "UTF-8"),
    "a PNG without pixels": (png(0, 5), FileKindRefused, "UTF-8"),
    "a JPEG without a size": (b"\xff\xd8\xff\xe0" + bytes(40), FileKindRefused, "UTF-8"),
    "a WebP without a picture": (b"RIFF\0\0\0\0WEBPVP8 ", FileKindRefused, "control"),
    "SVG": (b'\n<svg xmlns="http://www.w3.org/2000/svg"/>', FileKindRefused, "HTML, SVG"),
    "SVG behind comments": (b"<!-- a --> <!-- b --><SVG/>", FileKindRefused, "HTML, SVG"),
    "HTML": (BOM + b"<!DOCTYPE html><p>x", FileKindRefused, "HTML"),
    "XML": (b"<?xml version='1.0'?><a/>", FileKindRefused, "XML"),
    "a PNG that claims 4 gigapixels": (png(65_000, 65_000), FileKindRefused, "65,000 x 65,000"),
    "a PNG that claims one long row": (png(100_000, 1), FileKindRefused, "100,000 x 1"),
    "a JPEG that claims 4 gigapixels": (jpeg(65_000, 65_000), FileKindRefused, "pixels"),
    "a GIF that claims 4 gigapixels": (gif(65_000, 65_000), FileKindRefused, "pixels"),
}


def inspected(content: bytes, name: str) -> Inspected:
    with TemporaryFile() as file:
        file.write(content)
        return inspect(file, name)


@pytest.mark.parametrize("sample", KINDS)
def test_a_kind_is_found(sample: str) -> None:
    name, content, media_type = KINDS[sample]
    found = inspected(content, name)
    stored = content if media_type == "application/pdf" else content.removeprefix(BOM)
    assert (found.media_type, found.size) == (media_type, len(stored))
    assert found.sha256 == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize("sample", REFUSED)
def test_anything_else_is_refused(sample: str) -> None:
    content, error, words = REFUSED[sample]
    with pytest.raises(error, match=words):
        inspected(content, "a.txt")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.txt", "a.txt"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("", "file"),
        ("..", "file"),
        ("a\0\n\u202eb.txt", "ab.txt"),
        ("x" * 300 + ".md", "x" * 197 + ".md"),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_name_is_tidied(sent: str, kept: str) -> None:
    assert tidy_name(sent) == kept
