"""Ranges and conditions of a GET of bytes (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Mapping

from chatapi.errors.files import RangeNotSatisfiable

RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


def is_fresh(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client has these bytes already."""
    known = [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known


def asked_range(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None for the whole: several ranges, and what is no range, are ignored.

    Raises `RangeNotSatisfiable`.
    """
    match = RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or headers.get("if-range", etag) != etag:
        return None
    if not match[1]:  # the last bytes
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end
