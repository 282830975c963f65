"""Real Better Auth servers (tests/better_auth), if there is a Node to run them."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx

from tests.support import npm
from tests.support.serving import REPOSITORY, SECRET

PROJECT = REPOSITORY / "tests" / "better_auth"
NODE = 20


def missing() -> str | None:
    """Why Better Auth cannot run here; None if it can."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return f"real Better Auth left out: it needs Node {NODE} or newer and npm on PATH"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    match = re.match(r"v(\d+)", version)
    if match is None or int(match[1]) < NODE:
        return f"real Better Auth left out: it needs Node {NODE} or newer, and here is {version}"
    return None


def install() -> None:
    npm.install(PROJECT)


@asynccontextmanager
async def better_auth(**servers: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
    """Servers with these options (see server.mjs), all in one process; yields their base URLs by name."""
    await asyncio.to_thread(install)
    process = await asyncio.create_subprocess_exec(
        "node",
        "server.mjs",
        json.dumps(servers),
        cwd=PROJECT,
        env={**os.environ, "BETTER_AUTH_SECRET": SECRET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        line = await process.stdout.readline()
        assert line, "the server did not start; its standard error says why"
        yield json.loads(line)
    finally:
        process.stdin.close()
        await process.wait()


class User(httpx.AsyncClient):
    """A user who has just signed up on a new device: a client with the token of their session."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=60)
        self.credentials = {"email": f"{uuid4().hex}@example.org", "password": uuid4().hex}
        self.user_id = ""

    async def sign_up(self) -> "User":
        answer = await self.post("/api/auth/sign-up/email", json={"name": "Alice", **self.credentials})
        assert answer.status_code == 200, answer.text
        return await self.sign_in()

    async def sign_in(self) -> "User":
        self.cookies.clear()
        answer = await self.post("/api/auth/sign-in/email", json=self.credentials)
        assert answer.status_code == 200, answer.text
        self.user_id = answer.json()["user"]["id"]
        self.headers["Authorization"] = f"Bearer {answer.headers['set-auth-token']}"
        return self

    async def token(self, path: str = "/api/auth/token") -> str:
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token

    async def control(self, what: str) -> None:
        assert (await self.post(f"/control/{what}")).status_code == 204
