"""Where the bytes of files are: a folder, or a bucket of S3, Google Cloud Storage or Azure, by obstore.

Here an object has a key and bytes and nothing else: a folder has no place for a media type, so the database keeps it.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from chatapi.errors.files import FilesUnavailable

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

READ_BYTES = 256 * 1024
WRITE_BYTES = 256 * 1024
PART_BYTES = 5 * 1024 * 1024  # S3 takes no smaller part of a multipart upload
WRITERS = 4  # objects written at once: for a bucket, each holds a part
# Of a writer that was killed. obstore never shows these files, and names them after the object and a number.
LEFTOVER_SECONDS = 3_600


class NoObject(Exception):
    """There is no object of this key."""


class Storage:
    """The objects below one URL; raises `FilesUnavailable` for all trouble, whose reason is logged.

    The URL is `s3://bucket/prefix` or the like, a `file:` URL, or the path of a folder. A process without files never imports
    obstore, which takes 4 MiB.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = folder_of(url)
        self._opened: ObjectStore | None = None
        self._writers = asyncio.Semaphore(WRITERS)

    async def write(self, key: str, pieces: Iterable[bytes]) -> None:
        """Store an object; when this raises or is cancelled, nothing is left of it."""
        import obstore

        size = PART_BYTES if self._folder is None else WRITE_BYTES
        async with self._writers:
            with trouble_told():
                # Never `put_async`: cancelled, it leaves the parts of its upload in the bucket for ever.
                async with obstore.open_writer_async(
                    self._store(), key, buffer_size=size, max_concurrency=1
                ) as writer:
                    for piece in pieces:
                        await writer.write(piece)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Open an object and return its bytes from `start` to before `end`; raises `NoObject`."""
        import obstore

        with trouble_told():
            try:
                found = await obstore.get_async(self._store(), key, options={"range": (start, end)})
            except FileNotFoundError as error:
                raise NoObject from error
        return self._pieces(found)

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no trouble."""
        import obstore

        with trouble_told(), suppress(FileNotFoundError):  # of a folder; a bucket says nothing
            await obstore.delete_async(self._store(), key)

    async def check(self) -> None:
        """Raise what obstore raises when the storage cannot be reached.

        In a thread of ours, for who asks ends soon after: a thread of obstore's that still tells the event loop of its result when
        the interpreter is torn down aborts the process (github.com/PyO3/pyo3-async-runtimes/issues/40).
        """
        import obstore

        await asyncio.to_thread(next, obstore.list(self._store(), chunk_size=1), None)

    def clear_leftovers(self) -> None:
        """Delete what writers that were killed have left in a folder."""
        if self._folder is None or not self._folder.is_dir():
            return
        long_ago = time.time() - LEFTOVER_SECONDS
        for path in self._folder.rglob("*#*"):
            if path.is_file() and path.stat().st_mtime < long_ago:
                path.unlink(missing_ok=True)

    async def _pieces(self, found: "GetResult") -> AsyncIterator[bytes]:
        with trouble_told():
            async for piece in found.stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    def _store(self) -> "ObjectStore":
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> "ObjectStore":
        from obstore.store import LocalStore, from_url

        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalStore(self._folder, automatic_cleanup=True)
        # For servers of one's own; obstore would otherwise refuse AWS_ENDPOINT without a word of the reason.
        plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
        return from_url(
            self._url,
            client_options={"timeout": "30s", "connect_timeout": "5s", "allow_http": plain},
            retry_config={
                "max_retries": 2,
                "retry_timeout": timedelta(seconds=10),
            },  # obstore's own: 10, in 3 minutes
        )


@contextmanager
def trouble_told() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError | OSError | ValueError):
            raise
        log.exception("The storage of files fails")
        raise FilesUnavailable from error


def folder_of(url: str) -> Path | None:
    """The folder that the URL names; None for a bucket."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return Path(url).absolute()
    return Path(urlsplit(url).path) if scheme == "file" else None
