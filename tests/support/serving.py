"""A service over real HTTP: in this process for speed and coverage, or in a process of its own."""

import asyncio
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvicorn
from litestar import Litestar
from msgspec.structs import replace
from sqlalchemy import text

from chatapi.agent.ports import Agent
from chatapi.app import create_app
from chatapi.auth.tokens import TokenVerifier
from chatapi.db.owner import EVERYONE
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.web.server import BoundedHttp
from tests.support import run
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database, unread_metrics

REPOSITORY = Path(__file__).parents[2]
SECRET = "a-secret-for-tests-that-is-long-enough"
# Makes running turns look as if their process had died. Deleting its lease would not do: the process lives, and its next
# heartbeat takes another.
CITUS = "CHATAPI_TEST_CITUS_URL"  # see `tests.support.citus`
DIES = "UPDATE turns SET worker_id = 'one that died' WHERE status = 'running'"

# More time for slow machines. A test that is about one of these times sets it itself.
SLOW_MACHINE = Patience(keys_fetch=60, client_linger=60, client_stall=300, mcp_start=60, redis=60)
BRIEF_PAUSES = replace(SLOW_MACHINE, model_pause=0.01)
GATED = "tests.support.gated"  # the command with an agent whose gates are files


def settings_for(database_url: str, **changes: Any) -> Settings:
    return Settings(
        **{
            "database_url": database_url,
            "db_kind": kind_of(database_url),
            "better_auth_secret": SECRET,
            "migrate": "auto",
            # Benchmarks use these settings, too, and are no run of tests.
            "files_url": str(Path(os.environ.get(run.VARIABLE, ".chatapi")) / "files"),
            "log_level": "WARNING",
            "titles": "off",  # a first turn's stream and its provider would have more to say; test_titles.py turns them on
            "compact": "off",  # likewise, a long conversation's provider; test_summaries.py
            **changes,
        }
    )


def kind_of(database_url: str) -> str:
    """`DB_KIND` for a database of the tests."""
    citus = os.environ.get(CITUS)
    return "citus" if citus and urlsplit(citus).netloc.rpartition("@")[2] in database_url else "postgresql"


def takes_statements(database_url: str) -> bool:
    """Whether the service uses PostgreSQL's own forms of statements there."""
    return database_url.startswith("postgresql") and kind_of(database_url) == "postgresql"


def token_for(user_id: str, *, lasts: timedelta = timedelta(hours=1)) -> str:
    settings = settings_for("sqlite:///unused")
    return TokenVerifier(settings, SLOW_MACHINE, unread_metrics()).mint(user_id, lasts)


# All clients share this context: reading the authorities takes a client 20 ms, and hardly any client here speaks TLS.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def anybody(base_url: str | httpx.URL, **options: Any) -> httpx.AsyncClient:
    """A client without a user, with a longer time-out than httpx's 5 s, which may be too short here."""
    return httpx.AsyncClient(base_url=base_url, **{"timeout": 60, "verify": NO_AUTHORITIES, **options})


async def execute(database_url: str, statement: str, **values: Any) -> None:
    """Run one statement in the database directly."""
    database = open_database(settings_for(database_url))
    async with database.transaction(EVERYONE) as session:
        await session.execute(text(statement), values)
    await database.close()


class Client(httpx.AsyncClient):
    """A user's client: their token, and paths below /api/{user_id}."""

    def __init__(self, base_url: str, user_id: str, **options: Any) -> None:
        super().__init__(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token_for(user_id)}"},
            **{
                "timeout": 60,
                "verify": NO_AUTHORITIES,
                "event_hooks": {"response": [check_problem]},
                **options,
            },
        )
        self.user_id = user_id

    def mine(self, path: str) -> str:
        return f"/api/{self.user_id}{path}"

    async def chat(self, message: str, conversation_id: int | None = None, **options: Any) -> httpx.Response:
        body = {"message": message} | (
            {} if conversation_id is None else {"conversation_id": conversation_id}
        )
        return await self.post(self.mine("/chat"), json=body, **options)

    async def said(self, message: str, conversation_id: int | None = None) -> dict[str, Any]:
        return await self.said_with({}, message, conversation_id)

    async def said_with(
        self, options: dict[str, Any], message: str, conversation_id: int | None = None
    ) -> dict[str, Any]:
        response = await self.chat(message, conversation_id, **options)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def messages(self, conversation_id: int, **query: Any) -> list[dict[str, Any]]:
        response = await self.get(self.mine(f"/conversations/{conversation_id}/messages"), params=query)
        assert response.status_code == 200, response.text
        items: list[dict[str, Any]] = response.json()["items"]
        return items


async def check_problem(response: httpx.Response) -> None:
    """Check the rules of all problem documents: a browser's stream client, for one, cannot read the headers of an error."""
    if response.headers.get("content-type") == "application/problem+json":
        await response.aread()
        if response.content:  # an answer to HEAD has none
            told = response.json().get("retry_after")
            assert response.headers.get("Retry-After") == (None if told is None else str(told))


@asynccontextmanager
async def serve(
    settings: Settings, agent: Agent | None = None, patience: Patience = SLOW_MACHINE
) -> AsyncIterator[str]:
    """The service in this process; yields its base URL."""
    app = create_app(settings, agent or CommandedAgent(), patience)
    async with serving(app, patience) as url:
        yield url


@asynccontextmanager
async def serving(app: Litestar, patience: Patience = SLOW_MACHINE) -> AsyncIterator[str]:
    """An app in this process; yields its base URL."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            log_level="warning",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=300,  # longer than clients keep a connection, so they never use one that is just closed
            http=partial(BoundedHttp, patience=patience),  # type: ignore[arg-type] # as in the command
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if serving.done():
            await serving
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def two_replicas(
    database_url: str,
    user_id: str = "alice",
    agent: Agent | None = None,
    patience: Patience = SLOW_MACHINE,
) -> AsyncIterator[tuple[Client, Client]]:
    """A user's clients of two services on one database; `agent` is that of the first."""
    settings = settings_for(database_url)
    async with (
        serve(settings, agent, patience) as one,
        serve(settings, patience=patience) as other,
        Client(one, user_id) as here,
        Client(other, user_id) as there,
    ):
        yield here, there


def command(directory: Path, database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `chatapi` in that directory, and return its result."""
    return subprocess.run(
        [sys.executable, "-m", "chatapi", *arguments],
        cwd=directory,
        env={**clean_environ(), "DATABASE_URL": database_url, "BETTER_AUTH_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Process:
    """The service as `chatapi run` in a process of its own. Its output goes into a file: a full pipe would stop it."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        *,
        port: int = 0,
        prefix: Sequence[str] = (),
        arguments: Sequence[str] = (),
        program: str = "chatapi",
    ) -> None:
        self._log = NamedTemporaryFile("r", prefix="chatapi-log-")  # noqa: SIM115 - closed when it has ended
        with Path(self._log.name).open("a") as log:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", program, "run", "--port", str(port), *arguments],
                cwd=directory,
                env={**clean_environ(), **(environ or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    async def ready(self) -> str:
        """Wait until it listens, and return its base URL."""
        for _ in range(1_200):
            ended = self._process.poll() is not None
            if match := re.search(r"running on (http://[^\s\"]+)", self._said()):
                return match[1]
            assert not ended, self._said()
            await asyncio.sleep(0.1)
        raise AssertionError(f"the service did not start:\n{self._said()}")

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait, 60)

    async def lines(self) -> list[str]:
        """Wait for its end, and return its whole output."""
        await self.wait()
        return self._said().splitlines()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    async def __aenter__(self) -> "Process":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._log.close()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()


def clean_environ() -> dict[str, str]:
    """This process's environment without the service's settings, but with the path of the tests' agents."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in Settings.__struct_encode_fields__
    }
    kind = {"DB_KIND": "citus"} if os.environ.get(CITUS) else {}
    return {**kept, **kind, "PYTHONPATH": str(REPOSITORY)}
