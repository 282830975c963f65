"""A database that has no room or takes no writes: clear answers, nothing lost, and no restart needed afterwards."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.agents import CommandedAgent
from tests.support.disk import small_disk
from tests.support.postgres import ROLE, Postgres
from tests.support.serving import SECRET, Client, Process, serve, settings_for

pytestmark = pytest.mark.slow

READ_ONLY = "urn:chatapi:problem:database-read-only"
FULL = "urn:chatapi:problem:database-full"


async def refused(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Send until it is refused: what is left of a page or of a pooled connection may still take something."""
    for _ in range(400):
        response = await send()
        if response.status_code != 200:
            return response
    raise AssertionError("it was never refused")


async def taken(send: Callable[[], Awaitable[httpx.Response]], problem: str) -> httpx.Response:
    """Send until it is taken; meanwhile it may be this problem, or still under way."""
    for _ in range(600):
        response = await send()
        if response.status_code == 200:
            return response
        assert response.json()["type"] in {problem, "urn:chatapi:problem:key-in-progress"}, response.text
        await asyncio.sleep(0.1)
    raise AssertionError(response.text)


async def tells_and_recovers(
    alice: Client, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]], problem: str
) -> None:
    """From trouble to its end, with a turn under way and others that come."""
    conversation_id = (await alice.said("say Hello."))["conversation_id"]
    gate = CommandedAgent.gates[name := uuid4().hex]
    message = f'call add_task {{"title": "milk"}}\ngate {name}\nsay {secrets.token_hex(4_000)}'
    headers = {"Idempotency-Key": uuid4().hex}
    turn = asyncio.create_task(alice.chat(message, headers=headers))
    await gate.reached.wait()

    await begin()
    big = "say " + secrets.token_hex(4_000)
    told = await refused(lambda: alice.chat(big, conversation_id))
    assert (told.status_code, told.json()["type"]) == (503, problem)
    assert int(told.headers["Retry-After"]) >= 1
    assert len(await alice.messages(conversation_id, limit=2)) == 2, "reading works"
    gate.opened.set()
    under_way = await turn
    assert (under_way.status_code, under_way.json()["type"]) == (503, problem)
    assert under_way.json()["turn_id"]

    await end()
    answer = await taken(lambda: alice.chat(message, headers=headers), problem)
    assert answer.json()["turn_id"] == under_way.json()["turn_id"]
    assert len(await alice.messages(answer.json()["conversation_id"])) == 2
    tasks = (await alice.get(alice.mine("/tasks"))).json()["items"]
    assert [task["title"] for task in tasks] == ["milk"]
    await taken(lambda: alice.chat("say And on.", conversation_id), problem)


class TestFull:
    async def test_sqlite(self) -> None:
        with small_disk("4m") as disk:
            settings = settings_for(f"sqlite:///{disk.path / 'chatapi.db'}", rate_limit_chat="off")
            async with serve(settings) as base, Client(base, "alice") as alice:
                await tells_and_recovers(
                    alice,
                    lambda: asyncio.to_thread(disk.fill),
                    lambda: asyncio.to_thread(disk.free),
                    FULL,
                )

    async def test_postgresql(self, postgres: Postgres) -> None:
        name = f"small_{uuid4().hex}"
        with small_disk("32m") as disk:
            space = disk.path / "space"
            space.mkdir()
            postgres.own(space)
            await postgres.execute(f"CREATE TABLESPACE {name} LOCATION '{space}'")
            await postgres.execute(f"CREATE DATABASE {name} OWNER {ROLE} TABLESPACE {name}")
            try:
                async with (
                    serve(settings_for(postgres.url(name), rate_limit_chat="off")) as base,
                    Client(base, "alice") as alice,
                ):
                    await tells_and_recovers(
                        alice,
                        lambda: asyncio.to_thread(disk.fill),
                        lambda: asyncio.to_thread(disk.free),
                        FULL,
                    )
            finally:
                await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
                await postgres.execute(f"DROP TABLESPACE {name}")


class TestReadOnly:
    async def test_postgresql(self, postgres: Postgres) -> None:
        """As on a standby. Sessions keep the order that they began under, so leaving it needs new ones."""
        name = await asyncio.to_thread(postgres.new_database)

        async def begin() -> None:
            await postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
            await postgres.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )

        async def end() -> None:
            await postgres.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')

        async with (
            serve(settings_for(postgres.url(name), rate_limit_chat="off")) as base,
            Client(base, "alice") as alice,
        ):
            await tells_and_recovers(alice, begin, end, READ_ONLY)

    async def test_sqlite(self, directory: Path) -> None:
        """A file that may not be written, for a process that may not overlook this."""
        file = directory / "chatapi.db"
        async with serve(settings_for(f"sqlite:///{file}")) as base, Client(base, "alice") as alice:
            conversation_id = (await alice.said("say Hello."))["conversation_id"]
        file.chmod(0o400)
        environ = {
            "DATABASE_URL": f"sqlite:///{file}",
            "BETTER_AUTH_SECRET": SECRET,
            "RATE_LIMIT_CHAT": "off",
        }
        prefix: list[str] = []
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("root may write any file, and there is no setpriv to forgo it")
            prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
        async with (
            Process(directory, environ, prefix=prefix) as process,
            Client(await process.ready(), "alice") as alice,
        ):
            told = await alice.chat("say Hello.", conversation_id)
            assert (told.status_code, told.json()["type"]) == (503, READ_ONLY)
            assert int(told.headers["Retry-After"]) >= 1
            for suffix in ("", "-wal", "-shm"):  # which were made with its mode
                file.with_name(file.name + suffix).chmod(0o600)
            await taken(lambda: alice.chat("Add milk", conversation_id), READ_ONLY)
            assert len(await alice.messages(conversation_id)) == 4
