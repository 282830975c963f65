"""The bounds of a conversation's metadata, which belong to the client and mean nothing here."""

from typing import Any

import msgspec

from chatapi.errors.requests import Invalid

MAX_BYTES = 4096  # as JSON: some dozens of short values, in a row that every turn rewrites
MAX_DEPTH = 32  # well below where encoders give up


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise `Invalid` for metadata that is too large or too deep, or has text that PostgreSQL cannot hold."""
    if (size := len(msgspec.json.encode(metadata))) > MAX_BYTES:
        raise Invalid(("metadata", f"has {size} bytes as JSON; {MAX_BYTES} are allowed"))
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        texts = [each for each in level if isinstance(each, str)]
        if any("\0" in text for text in texts):
            raise Invalid(("metadata", "must not contain U+0000"))
        level = [inner for each in level for inner in inside(each)]
    if level:
        raise Invalid(("metadata", f"is nested more than {MAX_DEPTH} levels deep"))


def inside(value: Any) -> list[Any]:
    """The values in an array or an object, with the object's names."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []
