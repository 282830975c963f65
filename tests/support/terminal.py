"""A terminal: `chatapi chat` in a pseudo-terminal of its own, with somebody who types and reads."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.serving import clean_environ

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")
PATIENCE = 20  # seconds


class Terminal:
    """What the program has written so far is `screen`, without colours and movements of the cursor."""

    def __init__(self, process: asyncio.subprocess.Process, end: int) -> None:
        self.process = process
        self._end = end
        self._raw = b""
        self._lines = 0  # that were begun only to be interrupted
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(end, self._read)

    @property
    def screen(self) -> str:
        return ESCAPES.sub("", self._raw.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal makes it of the key."""
        os.write(self._end, b"\x03")

    async def interrupt_line(self) -> None:
        """Ctrl-C while a line is written, once the program waits for a key: before that Python's line editor misses it."""
        self._lines += 1
        self.type(f"unfinished {self._lines}")
        await self.shows(f"> unfinished {self._lines}")
        while not self._waits():  # noqa: ASYNC110 - a process gives no notice
            await asyncio.sleep(0.001)
        self.interrupt()

    def _waits(self) -> bool:
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].startswith("S")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    async def shows(self, text: str, after: str = "") -> None:
        """Wait until that is written, after that."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self._has(text, after):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"never shows {text!r}:\n{self.screen}") from None

    def _has(self, text: str, after: str) -> bool:
        """What is typed is echoed piece by piece, so `after` may not be there yet."""
        _, found, rest = self.screen.rpartition(after) if after else ("", "", self.screen)
        return found == after and text in rest

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._end)
        os.close(self._end)

    def _read(self) -> None:
        try:
            self._raw += os.read(self._end, 65_536)
        except OSError:  # the program has ended
            asyncio.get_running_loop().remove_reader(self._end)
        self._news.set()


@asynccontextmanager
async def terminal(directory: Path, *arguments: str, **environ: str) -> AsyncIterator[Terminal]:
    # pytest's import of readline leaves these to its workers, and they would hold whatever size the terminal has.
    kept = {name: value for name, value in clean_environ().items() if name not in {"COLUMNS", "LINES"}}
    end, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chatapi", "chat", *arguments),
        cwd=directory,
        env={**kept, "TERM": "xterm-256color", **environ},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    told = Terminal(process, end)
    try:
        yield told
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        told.close()


async def piped(
    directory: Path, *arguments: str, stdin: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    """`chatapi chat` in a script."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chatapi", "chat", *arguments),
        cwd=directory,
        env={**clean_environ(), **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return subprocess.CompletedProcess([*arguments], process.returncode, out.decode(), err.decode())
