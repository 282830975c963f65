"""Small files of each kind, made in code, and uploads of them."""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import httpx

from tests.support.serving import Client


def png(width: int = 1, height: int = 1) -> bytes:
    """A whole grey picture of one pixel; with a larger size only its header says so."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")


def jpeg(width: int = 1, height: int = 1, *, before: int = 0) -> bytes:
    """The header of a picture; `before`: bytes of other segments before its size."""
    segments = b""
    while before > 0:
        segments += b"\xff\xe1" + struct.pack(">H", min(before, 60_000) + 2) + bytes(min(before, 60_000))
        before -= 60_000
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + (segments or b"\xff\xe0\x00\x10JFIF" + bytes(10)) + frame + b"\xff\xd9"


def gif(width: int = 1, height: int = 1) -> bytes:
    return (
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + b"\x2c" + bytes(10) + b"\x3b"
    )


def webp(kind: bytes = b"VP8L") -> bytes:
    body = {
        b"VP8 ": b"\x30\x01\x00\x9d\x01\x2a\x01\x00\x01\x00",
        b"VP8L": b"\x2f\x00\x00\x00\x00",
        b"VP8X": bytes(10),
    }[kind]
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def pdf(*pages: str, before: bytes = b"") -> bytes:
    """A document with a line of text on each page."""
    kids = " ".join(f"{number} 0 R" for number in range(4, 4 + 2 * len(pages), 2))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {5 + 2 * number} 0 R >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    document, places = before + b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(document) - len(before))
        document += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size, start = len(objects) + 1, len(document) - len(before)
    return (
        document
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
        ).encode()
    )


async def upload(client: Client, content: bytes, name: str = "file.txt") -> httpx.Response:
    """Send a file as a browser does. (The media type is not believed.)"""
    form = {"file": (name, content, "application/octet-stream")}
    return await client.post(client.mine("/files"), files=form)


async def uploaded(client: Client, content: bytes, name: str = "file.txt") -> dict[str, Any]:
    response = await upload(client, content, name)
    assert response.status_code == 201, response.text
    file: dict[str, Any] = response.json()
    return file


def parts(text: str | None, *file_ids: int) -> list[dict[str, Any]]:
    """A message's `parts`."""
    texts: Sequence[dict[str, Any]] = [] if text is None else [{"type": "text", "text": text}]
    return [*({"type": "file", "file_id": file_id} for file_id in file_ids), *texts]


JSON = json.dumps({"a": [1, 2, {"b": None}]}).encode()
