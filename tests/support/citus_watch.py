"""Watches what the service sends to PostgreSQL while tests run, for statements that would not do on Citus."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import greenlet
from sqlalchemy import Connection, Engine, event

from tests.support.citus_rules import NO_OWNER, verdict

REPOSITORY = Path(__file__).parents[2]
OURS = f"{REPOSITORY}/src/chatapi/"
OTHERS = f"{REPOSITORY}/"  # tests look into the database themselves, and so do migrations
EVERYBODYS: dict[str, str] = {}

refused: dict[str, str] = {}


def begin() -> None:
    event.listen(Engine, "before_cursor_execute", look)


def end() -> None:
    event.remove(Engine, "before_cursor_execute", look)


def look(connection: Connection, _: Any, statement: str, *__: Any) -> None:
    if connection.dialect.name != "postgresql" or (wrong := verdict(statement)) is None:
        return
    by = sent_by()
    if by is None or (wrong == NO_OWNER and by in EVERYBODYS):
        return
    refused.setdefault(f"{by}: {wrong}", statement)


def sent_by() -> str | None:
    """The function of the service that sends the statement; None if it comes from elsewhere."""
    for frame in frames():
        name = frame.f_code.co_filename
        if name.startswith(OURS) and "/db/" not in name:
            return f"{name.removeprefix(OURS)}:{frame.f_code.co_qualname}"
        if name.startswith(OTHERS) and not name.startswith((OURS, f"{OTHERS}.venv", __file__)):
            return None
    return None


def frames() -> Iterator[FrameType]:
    """The frames of the caller, from the inside; SQLAlchemy runs in a greenlet, whose parent has the coroutine."""
    frame: FrameType | None = sys._getframe(2)
    inside = greenlet.getcurrent()
    while frame is not None:
        yield frame
        frame = frame.f_back
    while (inside := inside.parent) is not None:
        frame = inside.gr_frame
        while frame is not None:
            yield frame
            frame = frame.f_back
