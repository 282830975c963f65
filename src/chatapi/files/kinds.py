"""Finds out from a file's bytes what it is; neither its name nor its Content-Type is believed.

Kinds are told apart by the signatures of what we take, because every library that we tried misjudges valid files
(docs/dependencies.md). Plain text, Markdown and CSV have no signatures: among these three, the name's ending decides.
"""

import codecs
import hashlib
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO

import msgspec
from msgspec import Struct

from chatapi.errors.files import FileKindRefused
from chatapi.errors.requests import Invalid

TEXTS = {".md": "text/markdown", ".markdown": "text/markdown", ".csv": "text/csv"}
HEAD_BYTES = 64 * 1024
PDF_MARK_BYTES = 1024  # where readers look for `%PDF-` (ISO 32000-1, annex H)
CHUNK_BYTES = 256 * 1024
BOM = codecs.BOM_UTF8
# A provider decodes what we never do, and an image of a few kilobytes can claim gigabytes. The largest cameras have
# 200 megapixels; providers scale down to a few.
MAX_PIXELS = 200_000_000
MAX_SIDE = 30_000

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")  # all but tab, line feed, form feed, carriage return
MARKUP = re.compile(r"<(?:!doctype|html|head|body|script|svg|\?xml)\b", re.I)
WORDS = "is no PNG, JPEG, WebP, GIF or PDF, and no text in UTF-8"
json_value = msgspec.json.Decoder(msgspec.Raw)  # checks the syntax and makes no objects


class Inspected(Struct, frozen=True, kw_only=True):
    """The file's kind, and what will be stored: `size` bytes from `start` on, with this digest."""

    media_type: str
    start: int
    size: int
    sha256: str


def inspect(file: IO[bytes], name: str) -> Inspected:
    """Inspect an open file, piece by piece; raises `FileKindRefused`, and `Invalid` for an empty file."""
    size = file.seek(0, 2)
    if size == 0:
        raise Invalid(("file", "is empty"))
    file.seek(0)
    head = file.read(HEAD_BYTES)
    media_type = image_kind(file, head) or pdf_kind(head)
    start = 0
    if media_type is None:
        media_type = text_kind(file, head, name)
        start = len(BOM) if head.startswith(BOM) else 0
    if size == start:
        raise Invalid(("file", "is empty"))
    digest = hashlib.sha256()
    for chunk in chunks(file, start):
        digest.update(chunk)
    return Inspected(media_type=media_type, start=start, size=size - start, sha256=digest.hexdigest())


def chunks(file: IO[bytes], start: int = 0) -> Iterator[bytes]:
    file.seek(start)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def image_kind(file: IO[bytes], head: bytes) -> str | None:
    """The kind of an image, or None; raises `FileKindRefused` for one whose size nobody should decode."""
    size: tuple[int, int] | None = None
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        media_type, size = "image/png", unpacked(">II", head, 16)
    elif head.startswith(b"\xff\xd8\xff") and head[3:4] >= b"\xc0":
        media_type, size = "image/jpeg", jpeg_size(file)
    elif head[:6] in {b"GIF87a", b"GIF89a"}:
        media_type, size = "image/gif", gif_size(head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        media_type, size = "image/webp", webp_size(head)
    if size is None or 0 in size:
        return None
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise FileKindRefused(
            f"The image says that it has {width:,} x {height:,} pixels; no side may have more than {MAX_SIDE:,}, and "
            f"the whole not more than {MAX_PIXELS:,}."
        )
    return media_type


def unpacked(form: str, head: bytes, place: int) -> tuple[int, int] | None:
    try:
        first, second = struct.unpack_from(form, head, place)
    except struct.error:
        return None
    return int(first), int(second)


def gif_size(head: bytes) -> tuple[int, int] | None:
    """The size, if a block follows the colour table as in every GIF, and in no text that begins with "GIF89a"."""
    size = unpacked("<HH", head, 6)
    if size is None or len(head) < 14:
        return None
    after = 13 + (3 * 2 ** ((head[10] & 7) + 1) if head[10] & 0x80 else 0)
    return size if head[after : after + 1] in {b"\x21", b"\x2c"} else None


def webp_size(head: bytes) -> tuple[int, int] | None:
    """https://developers.google.com/speed/webp/docs/riff_container"""
    match head[12:16]:
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            size = unpacked("<HH", head, 26)
            return None if size is None else (size[0] & 0x3FFF, size[1] & 0x3FFF)
        case b"VP8L" if head[20:21] == b"\x2f" and len(head) >= 25:
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X" if len(head) >= 30:
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def jpeg_size(file: IO[bytes]) -> tuple[int, int] | None:
    """The size in the frame's header, which comes after any number of other segments (ITU T.81, annex B)."""
    file.seek(2)
    while len(marker := file.read(2)) == 2 and marker[0] == 0xFF:
        if marker[1] == 0xFF:  # a fill byte
            file.seek(-1, 1)
            continue
        length = int.from_bytes(file.read(2), "big")
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in {0xC4, 0xC8, 0xCC}:
            size = unpacked(">HH", file.read(5), 1)
            return None if size is None else (size[1], size[0])
        if marker[1] == 0xDA or length < 2:  # the picture itself begins, or this is no segment
            return None
        file.seek(length - 2, 1)
    return None


def pdf_kind(head: bytes) -> str | None:
    """A PDF may have anything before its mark; a text that only speaks of PDFs has the mark and no object."""
    if head.find(b"%PDF-", 0, PDF_MARK_BYTES + 5) < 0:
        return None
    return "application/pdf" if b"obj" in head or not is_text(head) else None


def is_text(head: bytes) -> bool:
    try:
        return not CONTROLS.search(codecs.getincrementaldecoder("utf-8")().decode(head))
    except UnicodeDecodeError:
        return False


def text_kind(file: IO[bytes], head: bytes, name: str) -> str:
    """The kind of a text; raises `FileKindRefused` for what is none, and for markup that a browser would run."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in chunks(file):
            if CONTROLS.search(decoder.decode(chunk)):
                raise FileKindRefused(f"The file {WORDS}: it has control characters.")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise FileKindRefused(f"The file {WORDS}.") from error
    beginning = head.removeprefix(BOM)
    if MARKUP.match(without_comments(beginning.decode("utf-8", "replace"))):
        raise FileKindRefused("The file is HTML, SVG or XML, which can hold programs.")
    if beginning.lstrip()[:1] in {b"{", b"["} and is_json(file, len(head) - len(beginning)):
        return "application/json"
    return TEXTS.get(name[name.rfind(".") :].lower(), "text/plain")


def without_comments(text: str) -> str:
    """The text without the comments of HTML and XML that it begins with."""
    text = text.lstrip()
    while text.startswith("<!--"):
        text = text.partition("-->")[2].lstrip()
    return text


@contextmanager
def whole_of(file: IO[bytes]) -> Iterator[memoryview]:
    """All bytes of a file of the disk or in memory, without a copy."""
    if isinstance(file, BytesIO):
        with file.getbuffer() as held:
            yield held
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
        yield whole


def is_json(file: IO[bytes], start: int) -> bool:
    with whole_of(file) as whole:
        try:
            json_value.decode(whole[start:])
        except (msgspec.DecodeError, RecursionError):
            return False
    return True
