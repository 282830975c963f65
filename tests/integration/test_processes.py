"""The service as it is run: processes, restarts, several of them, and the command line."""

import asyncio
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE
from tests.support.databases import open_database
from tests.support.serving import (
    GATED,
    SECRET,
    Client,
    Process,
    anybody,
    clean_environ,
    settings_for,
    two_replicas,
)

pytestmark = pytest.mark.slow

COMMANDED = "tests.support.agents:CommandedAgent"


def chatapi(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatapi", *arguments],
        cwd=cwd,
        env={**clean_environ(), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_new_process_on_the_same_database_continues(
    new_database: Callable[..., str], directory: Path
) -> None:
    environ = {
        "DATABASE_URL": await asyncio.to_thread(new_database, migrated=False),
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": COMMANDED,
        "MIGRATE": "auto",
    }
    async with Process(directory, environ) as process, Client(await process.ready(), "alice") as client:
        first = await client.said("say Hello.")
        process.terminate()
        assert await process.wait() == 0
    async with Process(directory, environ) as process, Client(await process.ready(), "alice") as client:
        second = await client.said("history", first["conversation_id"])
        assert second["response"] == '[["user", "say Hello."], ["assistant", "Hello."]]'


async def test_several_workers_share_the_work_and_end_well(
    new_database: Callable[..., str], directory: Path
) -> None:
    """A turn under way at SIGTERM is answered, whichever worker has it, and the whole ends with 0."""
    environ = {
        "DATABASE_URL": await asyncio.to_thread(new_database, migrated=False),
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "tests.support.gated:GatedAgent",
    }
    migrated = await asyncio.to_thread(
        chatapi, "database", "upgrade", "--no-prompt", cwd=directory, **environ
    )
    assert migrated.returncode == 0, migrated.stderr
    database = open_database(settings_for(environ["DATABASE_URL"]))
    async with Process(directory, environ, arguments=["--workers", "2"], program=GATED) as process:
        url = await process.ready()
        async with Client(url, "alice") as alice:
            await until_ready(alice)
        while await count(database, "count(DISTINCT worker_id)") < 2:  # until the second has started, too
            await asyncio.gather(*(say(url, "say Hello.") for _ in range(8)))
        turns = [asyncio.create_task(say(url, "gate end\nsay Done.")) for _ in range(12)]
        while await count(database, "count(*)", "WHERE status = 'running'") < 12:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.05)
        process.terminate()
        await asyncio.sleep(0.5)  # so that most of them end after it is heard
        (directory / "end.open").touch()
        assert {(await turn)["response"] for turn in turns} == {"Done."}
        assert await process.wait() == 0
    await database.close()


async def count(database: Database, what: str, which: str = "") -> int:
    """Of the turns there are."""
    async with database.transaction(EVERYONE) as session:
        return int(await session.scalar(text(f"SELECT {what} FROM turns {which}")) or 0)


async def until_ready(client: Client) -> None:
    for _ in range(600):
        with suppress(httpx.TransportError):
            if (await client.get("/health/ready")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise AssertionError("the service does not become ready")


async def say(url: str, message: str) -> dict[str, Any]:
    """Somebody new, on a connection of their own."""
    async with Client(url, uuid4().hex) as client:
        return await client.said(message)


async def test_two_instances_answer_alternately(new_database: Callable[[], str]) -> None:
    async with two_replicas(await asyncio.to_thread(new_database)) as (a, b):
        conversation_id = (await a.said("say 0"))["conversation_id"]
        for number in range(1, 6):
            await (b if number % 2 else a).said(f"say {number}", conversation_id)
        assert [message["content"] for message in await b.messages(conversation_id)][1::2] == list("012345")


async def test_nothing_configured_is_enough(directory: Path) -> None:
    """An empty directory: the database, the secret and a token make themselves."""
    async with Process(directory) as process:
        url = await process.ready()
        data = directory / ".chatapi"
        assert {path.name for path in data.iterdir()} >= {"chatapi.db", "secret"}
        assert stat.S_IMODE((data / "secret").stat().st_mode) == 0o600
        assert stat.S_IMODE((data / "chatapi.db").stat().st_mode) == 0o600
        token = await asyncio.to_thread(chatapi, "token", "alice", "--expires", "90s", cwd=directory)
        assert token.returncode == 0
        async with anybody(url, headers={"Authorization": f"Bearer {token.stdout.strip()}"}) as client:
            assert (await client.get("/api/me")).json()["user_id"] == "alice"
            answer = (await client.post("/api/chat", json={"message": "Add milk to my list"})).json()
            assert [call["name"] for call in answer["tool_calls"]] == ["add_task"]
            answer = (
                await client.post(
                    "/api/alice/chat",
                    json={"message": "What's left?", "conversation_id": answer["conversation_id"]},
                )
            ).json()
            assert "milk" in answer["response"]


class TestCommandLine:
    def test_a_wrong_setting_is_one_line_that_names_the_variable(self, directory: Path) -> None:
        """One for each place that a setting is looked at; all that can be wrong is in tests/unit/test_settings.py."""
        for name, value in {
            "PORT": "many",
            "BETTER_AUTH_SECRET": "short",
            "DATABASE_URL": "mysql://localhost/x",
            "CHAT_MODEL": "no.such.module:agent",
        }.items():
            result = chatapi("run", cwd=directory, **{"BETTER_AUTH_SECRET": SECRET, name: value})
            assert result.returncode == 1, name
            assert result.stderr.startswith(f"chatapi: {name}: "), result.stderr
            assert len(result.stderr.splitlines()) == 1
            if name == "BETTER_AUTH_SECRET":
                assert value not in result.stderr

    def test_postgresql_without_a_secret_is_refused(self, directory: Path) -> None:
        result = chatapi("run", cwd=directory, DATABASE_URL="postgresql://localhost/x")
        assert (result.returncode, result.stderr.split(": ")[1]) == (1, "BETTER_AUTH_SECRET")

    def test_check_config_shows_settings_and_no_secret(self, directory: Path) -> None:
        result = chatapi(
            "check-config",
            cwd=directory,
            DATABASE_URL="postgresql://chat:hunter2@db.example/chat?sslmode=require",
            BETTER_AUTH_SECRET=SECRET,
        )
        assert result.returncode == 0, result.stderr
        assert "CHAT_HISTORY_LIMIT=20" in result.stdout.splitlines()
        assert "DATABASE_URL=postgresql://chat:***@db.example/chat" in result.stdout.splitlines()
        assert SECRET not in result.stdout
        assert "hunter2" not in result.stdout

    def test_a_token_needs_a_duration_that_is_one(self, directory: Path) -> None:
        result = chatapi("token", "alice", "--expires", "soon", cwd=directory)
        assert result.returncode == 2
        assert "not a duration" in result.stderr

    def test_a_token_needs_a_secret_to_sign_it_with(self, directory: Path) -> None:
        result = chatapi("token", "alice", cwd=directory, BETTER_AUTH_URL="https://auth.example.org")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("chatapi: BETTER_AUTH_SECRET: is not set")
        assert len(result.stderr.splitlines()) == 1

    def test_settings_come_from_an_env_file_too(self, directory: Path) -> None:
        (directory / ".env").write_text("PORT=many\n")
        result = chatapi("run", cwd=directory)
        assert result.stderr.startswith("chatapi: PORT: ")
