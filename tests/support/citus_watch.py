"""Watches what the service sends to PostgreSQL while tests run, for statements that would not do on Citus."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import greenlet
from sqlalchemy import Connection, Engine, event

from tests.support.citus_rules import INSERT_SELECT, MODIFYING_CTE, NO_OWNER, verdict

REPOSITORY = Path(__file__).parents[2]
OURS = f"{REPOSITORY}/src/chatapi/"
OTHERS = f"{REPOSITORY}/"  # tests look into the database themselves, and so do migrations
# The functions whose statements serve everybody, with when that is. These may run on all machines (docs/scaling.md).
EVERYBODYS: dict[str, str] = {
    "conversations/search/backfill.py:step": "the first start of a version with search, and an hour later",
    "conversations/search/backfill.py:index_messages": "as before",
    "conversations/search/backfill.py:index_titles": "as before",
    "files/service.py:owners_with_due": "each hour in each process",
    "turns/retention.py:look": "`chatapi retention`",
    "turns/store/end.py:fail_abandoned": "after an outage, for turns whose end is not certain",
    "turns/store/live.py:watch": "twice a second in a process that runs turns",
    "turns/store/live.py:read": "four times a second in a process that streams turns of other processes",
    "turns/store/live.py:news_and_ends": "as before",
    "turns/store/queue.py:look": "as long as something is queued",
    "turns/store/queue.py:news": "four times a second in a process whose clients wait for queued turns",
    "turns/store/waits.py:look": "as long as turns wait for answers",
    "turns/store/summaries.py:find_due": "as long as summaries are asked for",
    "turns/titles.py:find_due": "as long as titles are asked for",
    "usage/service.py:read": "`chatapi usage`",
}

# These have another form for Citus (`db.services.is_distributed`).
ON_ONE_MACHINE = {
    "api_keys/service.py:APIKeyService.make",
    "conversations/sources.py:make",
    "tasks/service.py:TaskService.add",
    "turns/store/journal.py:record_call",
    "turns/store/begin.py:_new_conversation",
    "usage/counting.py:count",
    "turns/store/added.py:add",
    "turns/store/added.py:new_turns",
}

refused: dict[str, str] = {}
is_strict = False


def begin() -> None:
    event.listen(Engine, "before_cursor_execute", look)


def told() -> str | None:
    """What was refused since this was asked last."""
    found = "\n".join(f"{reason}\n  {sql}" for reason, sql in refused.items())
    refused.clear()
    return found or None


def look(connection: Connection, _: Any, statement: str, __: Any, context: Any, *___: Any) -> None:
    # An expression of `db.alternatives` takes the owner as this parameter, and without it would find nobody's rows.
    if any(each.get("user_id", "") is None for each in getattr(context, "compiled_parameters", None) or ()):
        refused.setdefault(f"{sent_by()}: is not given the parameter user_id", statement)
    if connection.dialect.name != "postgresql" or (wrong := verdict(statement)) is None:
        return
    by = sent_by()
    if by is None or (wrong == NO_OWNER and by in EVERYBODYS):
        return
    if wrong in {INSERT_SELECT, MODIFYING_CTE} and by in ON_ONE_MACHINE and not is_strict:
        return
    refused.setdefault(f"{by}: {wrong}", statement)


@contextmanager
def migrations() -> Iterator[list[tuple[str, str]]]:
    """What migrations send to PostgreSQL meanwhile, each with its file."""
    sent: list[tuple[str, str]] = []

    def note(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        for frame in frames() if connection.dialect.name == "postgresql" else ():
            if frame.f_code.co_filename.startswith(f"{REPOSITORY}/migrations/versions/"):
                sent.append((Path(frame.f_code.co_filename).name, statement))
                return

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@contextmanager
def strictly() -> Iterator[None]:
    """Refuse the forms for one machine, too; for a service with DB_KIND=citus."""
    global is_strict  # noqa: PLW0603 - a run has one watch
    is_strict = True
    try:
        yield
    finally:
        is_strict = False


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
