"""Exports and erases all of a user's data, in many short transactions, however much there is."""

import tarfile
from collections.abc import AsyncIterator, Sequence
from tempfile import TemporaryFile
from typing import Any

import msgspec
from sqlalchemy import FromClause, Select, delete, select, tuple_, update

from chatapi.audit import Outcome, audit
from chatapi.db.clock import utc_now
from chatapi.db.database import Database
from chatapi.db.models import (
    RUNNING,
    SHOWN_STATUS,
    APIKey,
    Conversation,
    Feedback,
    File,
    Message,
    QueuedTurn,
    Summary,
    Task,
    ToolCallEntry,
    Turn,
    UsageConversation,
    UsageDay,
    User,
    Wait,
)
from chatapi.db.texts import owned_by
from chatapi.errors.files import FileNotFound
from chatapi.files.service import FileService, is_there

VERSION = 1
PAGE = 200  # a page of the longest messages is 8 MB at the most
TAR_BYTES = 256 * 1024
BATCH = 500  # turns that go with their messages and tool calls in a fraction of a second

# The tables to export, in this order, each read by the columns of an index that begins with the owner.
EXPORTED: tuple[tuple[str, FromClause, tuple[str, ...]], ...] = (
    ("conversation", Conversation.__table__, ("id",)),
    ("turn", Turn.__table__, ("conversation_id", "id")),
    ("message", Message.__table__, ("conversation_id", "id")),
    ("feedback", Feedback.__table__, ("conversation_id", "message_id")),
    ("summary", Summary.__table__, ("conversation_id", "number")),
    ("tool_call", ToolCallEntry.__table__, ("turn_id", "position")),
    ("wait", Wait.__table__, ("turn_id", "number")),
    ("file", File.__table__, ("id",)),
    ("queued_turn", QueuedTurn.__table__, ("conversation_id", "id")),
    ("task", Task.__table__, ("id",)),
    ("api_key", APIKey.__table__, ("id",)),
    ("usage_day", UsageDay.__table__, ("day", "model")),
    ("usage_conversation", UsageConversation.__table__, ("day", "conversation_id")),
)
# These are in the header, or are this service's own book-keeping.
LEFT_OUT = {
    *("user_id", "worker_id", "run_id", "request_hash", "keys", "state"),
    *("titled_at", "title_due", "key", "stored_at", "hash"),
    *("due_at", "failures"),
}
# The rest, and rows that came meanwhile, go with the user's row.
ERASED = (Turn, Conversation, Task, UsageConversation)


async def export(database: Database, user_id: str, *, page_size: int = PAGE) -> AsyncIterator[bytes]:
    """Lines of JSON: a header, a line a record, and an end; without the end, the export was cut off.

    Each page is a transaction of its own: a record written meanwhile may be missing, but none comes twice.
    """
    records = 0
    outcome: Outcome = "failure"
    try:
        yield line("export", version=VERSION, user_id=user_id)
        for record, table, key in EXPORTED:
            async for page in pages(database, user_id, table, key, page_size):
                records += len(page)
                yield b"".join(line(record, **row) for row in page)
        yield line("end", records=records)
        outcome = "success"
    finally:
        audit("account.exported", outcome, records=records)


async def pages(
    database: Database, user_id: str, table: FromClause, key: tuple[str, ...], size: int
) -> AsyncIterator[Sequence[dict[str, Any]]]:
    by_key = [table.c[name] for name in key]
    columns = tuple_(*by_key)
    statement = rows_of(user_id, table).order_by(*by_key).limit(size)
    after: tuple[Any, ...] | None = None
    while True:
        async with database.transaction(user_id, reads_only=True) as session:
            page = statement if after is None else statement.where(columns > after)
            rows = [dict(row) for row in (await session.execute(page)).mappings()]
        if rows:
            after = tuple(rows[-1][name] for name in key)
            yield rows
        if len(rows) < size:
            return


def rows_of(user_id: str, table: FromClause) -> Select[Any]:
    """All columns, also those of later versions; a message has its turn's status, too."""
    kept = [column for column in table.c if column.name not in LEFT_OUT]
    if table is Turn.__table__:
        kept = [SHOWN_STATUS if column.name == "status" else column for column in kept]
    statement = select(*kept)
    if table is Message.__table__:
        statement = statement.add_columns(SHOWN_STATUS).join(Turn, Turn.id == table.c.turn_id)
        statement = statement.where(owned_by(Turn.user_id, user_id))
    if table is Summary.__table__:  # the others are being made
        statement = statement.where(Summary.content.is_not(None))
    if table is File.__table__:
        statement = statement.where(is_there())
    return statement.where(table.c.user_id == user_id)


def line(record: str, **values: Any) -> bytes:
    return msgspec.json.encode({"record": record, **values}) + b"\n"


async def export_tar(database: Database, files: FileService, user_id: str) -> AsyncIterator[bytes]:
    """A tar archive: `chatapi-export.ndjson`, which is `export`, and the bytes of each file as `files/{id}/{name}`.

    An archive without its end, two blocks of zeros, was cut off. Files deleted meanwhile are left out.
    """
    with TemporaryFile() as lines:  # a tar says how large a member is before it comes
        async for piece in export(database, user_id):
            lines.write(piece)
        yield tar_head("chatapi-export.ndjson", lines.tell())
        lines.seek(0)
        while piece := lines.read(TAR_BYTES):
            yield piece
        yield tar_padding(lines.tell())
    async for page in pages(database, user_id, File.__table__, ("id",), PAGE):
        for row in page:
            try:
                found = await files.read(user_id, row["id"])
                content = await files.open(found, 0, found.file.size)
            except FileNotFound:
                continue
            yield tar_head(f"files/{found.file.id}/{found.file.name}", found.file.size)
            async for piece in content:
                yield piece
            yield tar_padding(found.file.size)
    yield tarfile.NUL * tarfile.BLOCKSIZE * 2


def tar_head(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def tar_padding(size: int) -> bytes:
    return tarfile.NUL * (-size % tarfile.BLOCKSIZE)


async def erase(database: Database, files: FileService, user_id: str, *, batch: int = BATCH) -> None:
    """Delete everything of a user. Erased data stays erased, and a second call does no harm.

    Raises `FilesUnavailable` if the bytes of files cannot be deleted now; all else is deleted then, and they will be.

    API keys go first, so that no program goes on, and what is queued, so that it does not begin. Running turns are
    cancelled: their later writes need a running turn, and find none. A turn that begins meanwhile either references the user's row, and goes with it, or comes after it, and is new.
    """
    async with database.transaction(user_id) as session:
        await session.execute(delete(APIKey).where(APIKey.user_id == user_id))
        await session.execute(delete(QueuedTurn).where(QueuedTurn.user_id == user_id))
        await session.execute(
            update(Turn)
            .where(Turn.user_id == user_id, Turn.status == RUNNING)
            .values(status="cancelled", finished_at=utc_now())
        )
    for model in ERASED:
        while await erase_some(database, user_id, model, batch) == batch:
            pass
    async with database.transaction(user_id) as session:
        await session.execute(delete(User).where(User.id == user_id))
    await files.erase(user_id)


async def erase_some(
    database: Database,
    user_id: str,
    model: type[Turn | Conversation | Task | UsageConversation],
    batch: int,
) -> int:
    key = model.__mapper__.primary_key
    theirs = model.user_id == user_id
    some = select(*key).where(theirs).order_by(*key).limit(batch)
    async with database.transaction(user_id) as session:
        gone = await session.scalars(delete(model).where(theirs, tuple_(*key).in_(some)).returning(*key))
        return len(gone.all())
