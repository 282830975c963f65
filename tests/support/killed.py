"""Stores or deletes a file, and is killed at a moment: `python -m tests.support.killed DATABASE_URL FOLDER USER MOMENT`."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable

from chatapi.files.service import FileService
from chatapi.files.storage import Storage
from tests.support.databases import open_database
from tests.support.serving import settings_for

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nmilk\r\n--b--\r\n'


class Killed(Storage):
    """Dies before or after it has written or deleted an object."""

    def __init__(self, url: str, moment: str) -> None:
        super().__init__(url)
        self._moment = moment

    async def write(self, key: str, pieces: Iterable[bytes]) -> None:
        self._die_at("before the write")
        await super().write(key, pieces)
        self._die_at("after the write")

    async def delete(self, key: str) -> None:
        self._die_at("before the deletion")
        await super().delete(key)
        self._die_at("after the deletion")

    def _die_at(self, moment: str) -> None:
        if moment == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)


async def body() -> AsyncIterator[bytes]:
    yield FORM


async def main(database_url: str, folder: str, user_id: str, moment: str) -> None:
    settings = settings_for(database_url, files_url=folder)
    files = FileService(open_database(settings), Killed(folder, moment), settings)
    file = await files.add(user_id, body(), "multipart/form-data; boundary=b")
    await files.remove(user_id, file.id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
