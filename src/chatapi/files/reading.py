"""A user's files as an agent reads them: their bytes, or their text."""

import asyncio
import sys
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from chatapi.errors.files import FileNotSupported
from chatapi.files.pdf_text import BROKEN, EMPTY, LOCKED
from chatapi.files.schemas import FileRef
from chatapi.files.service import FileService

PDF = "application/pdf"
PROGRAM = Path(__file__).with_name("pdf_text.py")
EXTRACT_SECONDS = 20.0
EXTRACTORS = 2  # at once in this process
KEPT_TEXTS = 16  # of PDFs, since a conversation asks for the same ones in each turn: 400,000 characters each at the most
TROUBLE = {
    LOCKED: "it is locked by a password",
    BROKEN: "it is broken or too complicated",
    EMPTY: "it has none; perhaps its pages are pictures",
}


class FileReader:
    """Reads files for agents; one object a process."""

    def __init__(self, files: FileService) -> None:
        self._files = files
        self._texts: OrderedDict[int, str] = OrderedDict()  # by the ids of PDFs, whose bytes never change
        self._extractors = asyncio.Semaphore(EXTRACTORS)

    async def read(self, user_id: str, file: FileRef) -> bytes:
        """The bytes; raises `FileNotFound` and `FilesUnavailable`."""
        found = await self._files.read(user_id, file.id)
        return b"".join([piece async for piece in await self._files.open(found, 0, found.file.size)])

    async def text(self, user_id: str, file: FileRef) -> str:
        """The text of a text file or a PDF; also raises `FileNotSupported` if none can be read."""
        if file.media_type.startswith("image/"):
            raise FileNotSupported(f"{file.name} is a picture and has no text.")
        if file.media_type != PDF:
            return (await self.read(user_id, file)).decode()
        found = await self._files.read(
            user_id, file.id
        )  # also for a text that is kept: the file may be deleted by now
        if file.id not in self._texts:
            with TemporaryFile() as document:
                async for piece in await self._files.open(found, 0, found.file.size):
                    document.write(piece)
                self._texts[file.id] = await self._extract(document, file.name)
            while len(self._texts) > KEPT_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(file.id)
        return self._texts[file.id]

    async def text_of(self, data: bytes, name: str) -> str:
        """The text of a PDF that is not stored; raises `FileNotSupported`."""
        with TemporaryFile() as document:
            document.write(data)
            return await self._extract(document, name)

    async def _extract(self, document: IO[bytes], name: str) -> str:
        document.seek(0)
        async with self._extractors:
            return await extracted(document, name)


class Held:
    """A file that is not stored, such as one that came in the request itself, as `agent.ports.FileSource`."""

    def __init__(self, reader: FileReader, data: bytes) -> None:
        self._reader = reader
        self._data = data

    async def read(self, _: FileRef) -> bytes:
        return self._data

    async def text(self, file: FileRef) -> str:
        if file.media_type.startswith("image/"):
            raise FileNotSupported(f"{file.name} is a picture and has no text.")
        if file.media_type == PDF:
            return await self._reader.text_of(self._data, file.name)
        return self._data.decode()


class FilesOf:
    """One user's files, as `agent.ports.FileSource`."""

    def __init__(self, reader: FileReader, user_id: str) -> None:
        self._reader = reader
        self._user_id = user_id

    async def read(self, file: FileRef) -> bytes:
        return await self._reader.read(self._user_id, file)

    async def text(self, file: FileRef) -> str:
        return await self._reader.text(self._user_id, file)


async def extracted(
    document: IO[bytes], name: str, program: Path = PROGRAM, seconds: float = EXTRACT_SECONDS
) -> str:
    """The text of a PDF, by another process, which may be killed by what is in it; raises `FileNotSupported`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", program),
        stdin=document,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        async with asyncio.timeout(seconds):
            text, _ = await process.communicate()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        trouble = TROUBLE.get(process.returncode, TROUBLE[BROKEN])
        raise FileNotSupported(f"The text of {name} cannot be read: {trouble}.")
    return text.decode("utf-8", "replace")
