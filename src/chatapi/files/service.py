"""The one place where files are added, read and deleted. Each database transaction is short, and none waits for bytes.

A file's row is there before its object and is deleted after it, so a crash at any moment leaves a row that says what is
still to be done, and `sweep` does it. A row shows its file only while the object is there: from `stored_at` on, until it
has lost its turn after it was sent.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from secrets import token_hex
from tempfile import TemporaryFile
from typing import IO

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db import models
from chatapi.db.database import Database
from chatapi.db.models import now
from chatapi.db.owner import EVERYONE
from chatapi.errors.files import FileNotFound, FilesUnavailable, FileTooLarge
from chatapi.files.kinds import Inspected, chunks, inspect
from chatapi.files.receiving import receive
from chatapi.files.schemas import File, FileRef
from chatapi.files.storage import NoObject, Storage, trouble_told
from chatapi.settings import Settings

log = logging.getLogger(__name__)

UNSENT = timedelta(days=1)  # how long a file is kept that no message has
UNFINISHED = timedelta(hours=1)  # longer than any upload that still goes on
BATCH = 200
AWAY_AFTER = 3  # deletions that fail one after the other; fewer may be objects that cannot be deleted


class Found(Struct, frozen=True, kw_only=True):
    """A file and the key of its object."""

    file: File
    key: str


def is_there() -> ColumnElement[bool]:
    """Whether the file is shown; see the module."""
    file = models.File
    return and_(file.stored_at.is_not(None), or_(file.turn_id.is_not(None), file.sent_at.is_(None)))


def is_due() -> ColumnElement[bool]:
    """Whether the object and the row are to be deleted, unless a message that is queued has the file.

    An upload under way finds its row for long enough.
    """
    file = models.File
    moment = now()
    unwanted = or_(file.sent_at.is_not(None), file.created_at < moment - UNSENT)
    return and_(
        file.turn_id.is_(None),
        or_(
            and_(file.stored_at.is_not(None), unwanted),
            and_(file.stored_at.is_(None), file.created_at < moment - UNFINISHED),
        ),
    )


async def owners_with_due(session: AsyncSession, after: str) -> Sequence[str]:
    """Owners of files that are to be deleted, in order and behind this one; `BATCH` at the most."""
    owner = models.File.user_id
    some = select(owner).where(is_due(), owner > after).distinct().order_by(owner).limit(BATCH)
    return (await session.scalars(some)).all()


async def queued_files(session: AsyncSession, user_id: str) -> set[int]:
    """The files of the user's messages that are queued: they are sent when their turns begin.

    They are taken out of the requests here: PostgreSQL reads no JSON that has U+0000 anywhere in it.
    """
    queued = models.QueuedTurn
    requests = await session.scalars(
        select(queued.request).where(queued.user_id == user_id, queued.taken_out_at.is_(None))
    )
    return {file_id for request in requests if request for file_id in request.get("files", ())}


class Failures:
    """Those of the storage that came one after the other."""

    def __init__(self) -> None:
        self._number = 0

    @contextmanager
    def borne(self) -> Iterator[None]:
        """A block that may fail; raises `FilesUnavailable` when so many have failed that the storage must be away."""
        try:
            yield
        except FilesUnavailable:
            self._number += 1
            if self._number == AWAY_AFTER:
                raise
        else:
            self._number = 0


class FileService:
    """Every method but `sweep` takes the owner first and raises `FileNotFound` for a file that is not theirs."""

    def __init__(self, database: Database, storage: Storage, settings: Settings) -> None:
        self._database = database
        self._storage = storage
        self._most = settings.file_max_bytes
        self._swept = ""  # the last owner whose files a sweep has come to, if it did not come to the end

    async def add(self, user_id: str, body: AsyncIterator[bytes], content_type: str) -> File:
        """Store an upload. Raises what `receive` and `inspect` do, and `FilesUnavailable`; then nothing is stored."""
        with TemporaryFile() as staged:
            with trouble_told():
                name = await receive(body, content_type, self._most, staged)
            return await self._store(user_id, name, staged)

    async def add_bytes(self, user_id: str, name: str, data: bytes) -> File:
        """As `add`, for a file that came in a request of another kind."""
        if len(data) > self._most:
            raise FileTooLarge(self._most)
        with TemporaryFile() as staged:
            with trouble_told():
                staged.write(data)
            return await self._store(user_id, name, staged)

    async def _store(self, user_id: str, name: str, staged: IO[bytes]) -> File:
        with trouble_told():
            staged.flush()
            inspected = await asyncio.to_thread(inspect, staged, name)
        begun = await self._begin(user_id, name, inspected)
        await self._storage.write(begun.key, chunks(staged, inspected.start))
        if not await self._finish(user_id, begun):
            # The user was erased meanwhile; the row, if it is still there, has been marked.
            await self._storage.delete(begun.key)
            raise FileNotFound(begun.file.id)
        return begun.file

    async def read(self, user_id: str, file_id: int) -> Found:
        async with self._database.reading(user_id) as session:
            row = await session.scalar(
                select(models.File).where(
                    models.File.id == file_id, models.File.user_id == user_id, is_there()
                )
            )
        if row is None:
            raise FileNotFound(file_id)
        return Found(file=to_schema(row), key=row.key)

    async def refs(self, user_id: str, file_ids: Sequence[int]) -> list[FileRef]:
        """The files of these ids, in their order."""
        async with self._database.reading(user_id) as session:
            rows = await session.scalars(
                select(models.File).where(
                    models.File.id.in_(file_ids), models.File.user_id == user_id, is_there()
                )
            )
            found = {row.id: to_ref(row) for row in rows}
        for file_id in file_ids:
            if file_id not in found:
                raise FileNotFound(file_id)
        return [found[file_id] for file_id in file_ids]

    async def open(self, found: Found, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of the file from `start` to before `end`; also raises `FilesUnavailable`."""
        try:
            return await self._storage.read(found.key, start, end)
        except NoObject:
            log.warning(
                "The bytes of file %s are not in the storage; was it deleted just now?", found.file.id
            )
            raise FileNotFound(found.file.id) from None

    async def remove(self, user_id: str, file_id: int) -> None:
        """Delete a file; messages that it was sent with keep its name."""
        if not await self._mark(user_id, models.File.id == file_id, is_there()):
            raise FileNotFound(file_id)
        await self._delete_due(user_id)

    async def erase(self, user_id: str) -> None:
        """Delete all files of the user. Raises `FilesUnavailable`; `sweep` then deletes what is left."""
        await self._mark(user_id)
        await self._delete_due(user_id)

    async def sweep(self) -> None:
        """Delete what nobody wants: files never sent, those of deleted messages, and what crashes have left.

        A sweep that ends since the storage is away is gone on with by the next.
        """
        failures = Failures()
        with suppress(FilesUnavailable):  # the storage has logged why
            while owners := await self._database.run(EVERYONE, partial(owners_with_due, after=self._swept)):
                for self._swept in owners:
                    with failures.borne():
                        await self._delete_due(self._swept)
            self._swept = ""

    def clear_leftovers(self) -> None:
        """Delete what crashes have left in a folder beside its objects; may take a while."""
        with suppress(FilesUnavailable), trouble_told():
            self._storage.clear_leftovers()

    async def _begin(self, user_id: str, name: str, inspected: Inspected) -> Found:
        key = token_hex(16)
        key = f"{key[:2]}/{key}"  # in 256 folders, so that none has too many
        values = {
            "user_id": user_id,
            "key": key,
            "name": name,
            "media_type": inspected.media_type,
            "size": inspected.size,
            "sha256": inspected.sha256,
            "created_at": now(),
        }

        async def work(session: AsyncSession) -> int:
            return (
                await session.execute(insert(models.File).values(values).returning(models.File.id))
            ).scalar_one()

        async def recover(session: AsyncSession) -> int | None:
            mine = (models.File.user_id == user_id, models.File.key == key)
            return await session.scalar(select(models.File.id).where(*mine))

        file_id = await self._database.run(user_id, work, recover)
        return Found(file=msgspec.convert({**values, "id": file_id}, File), key=key)

    async def _finish(self, user_id: str, begun: Found) -> bool:
        async def work(session: AsyncSession) -> bool:
            stored = (
                update(models.File)
                .where(
                    models.File.id == begun.file.id,
                    models.File.user_id == user_id,
                    models.File.sent_at.is_(None),
                )
                .values(stored_at=now())
            )
            return await session.scalar(stored.returning(models.File.id)) is not None

        return await self._database.run(user_id, work)

    async def _mark(self, user_id: str, *which: ColumnElement[bool]) -> bool:
        """Say of these files that they are to be deleted: nobody sees them from then on."""
        gone = (
            update(models.File)
            .where(models.File.user_id == user_id, *which)
            .values(turn_id=None, sent_at=now(), name="")
            .returning(models.File.id)
        )

        async def work(session: AsyncSession) -> bool:
            return bool((await session.scalars(gone)).all())

        return await self._database.run(user_id, work)

    async def _delete_due(self, user_id: str) -> None:
        """Delete the user's files that are due; raises `FilesUnavailable` if some are left."""
        file = models.File
        theirs = file.user_id == user_id
        last, some_are_left = 0, False

        async def mark(session: AsyncSession) -> dict[int, str]:
            """Mark before deletion, so that no message takes a file whose object is going."""
            is_free = or_(file.sent_at.is_not(None), file.id.not_in(await queued_files(session, user_id)))
            some = (
                select(file.id)
                .where(theirs, is_due(), is_free, file.id > last)
                .order_by(file.id)
                .limit(BATCH)
            )
            marked = update(file).where(theirs, file.id.in_(some), is_due()).values(sent_at=now())
            found = await session.execute(marked.returning(file.id, file.key))
            return {id_: key for id_, key in found}  # noqa: C416 - mypy takes a row for no pair

        while due := await self._database.run(user_id, mark):
            gone = await self._delete_objects(due)
            await self._forget(user_id, gone)
            some_are_left = some_are_left or len(gone) < len(due)
            if len(due) < BATCH:
                break
            last = max(due)
        if some_are_left:
            raise FilesUnavailable

    async def _forget(self, user_id: str, file_ids: Sequence[int]) -> None:
        gone = delete(models.File).where(models.File.user_id == user_id, models.File.id.in_(file_ids))
        await self._database.run(user_id, lambda session: session.execute(gone))

    async def _delete_objects(self, due: Mapping[int, str]) -> Sequence[int]:
        """The files whose objects are gone; raises `FilesUnavailable` when the storage is away."""
        gone: list[int] = []
        failures = Failures()
        for file_id, key in due.items():
            with failures.borne():
                await self._storage.delete(key)
                gone.append(file_id)
        return gone


def to_schema(row: models.File) -> File:
    return msgspec.convert(row, File, from_attributes=True)


def to_ref(row: models.File) -> FileRef:
    return msgspec.convert(row, FileRef, from_attributes=True)
