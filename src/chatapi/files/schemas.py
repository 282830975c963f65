"""Files as callers see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from msgspec import Meta, Struct


class FileRef(Struct, frozen=True, kw_only=True):
    """A file of a message; `size` is in bytes."""

    id: int
    name: Annotated[str, Meta(examples=["shopping.md"])]
    media_type: Annotated[str, Meta(examples=["text/markdown"])]
    size: int


class File(FileRef, frozen=True, kw_only=True):
    """An uploaded file. `media_type` was found out from its bytes; `sha256` is their digest in hexadecimal."""

    sha256: str
    created_at: datetime

    @property
    def subject(self) -> dict[str, int]:
        return {"file_id": self.id}


def path_of(user_id: str, file_id: int) -> str:
    """The path that gives the file's bytes."""
    return f"/api/{quote(user_id, safe='')}/files/{file_id}"


def question_parts(user_id: str, text: str, files: Sequence[FileRef]) -> list[dict[str, Any]]:
    """A user's message as the parts of the AI SDK's UIMessage: its files first, as `sendMessage` orders them."""
    parts: list[dict[str, Any]] = [
        {
            "type": "file",
            "mediaType": file.media_type,
            "filename": file.name,
            "url": path_of(user_id, file.id),
        }
        for file in files
    ]
    return [*parts, {"type": "text", "text": text}] if text else parts
