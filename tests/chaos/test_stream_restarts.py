"""Replicas are restarted and killed while clients stream: each sees every answer whole in the end, and it is stored once.

What the clients do is what docs/frontend.md tells them to.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from tests.chaos.harness import Server, answers
from tests.support.postgres import free_port
from tests.support.proxies import missing, proxied
from tests.support.serving import GATED, SECRET, Client, Process
from tests.support.sse import STREAM, Chunk, chunks_of, text_of

pytestmark = pytest.mark.slow

if why := missing("haproxy"):
    pytest.skip(why, allow_module_level=True)

CLIENTS = 12
PATIENCE = 120.0  # seconds in which an answer must be there, with a lease to wait for after a kill


class Fleet:
    """Two replicas behind HAProxy, which calls them r0 and r1."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.url = ""
        self.directory = directory
        self.ports = [free_port(), free_port()]
        self._environ = {
            "DATABASE_URL": database_url,
            "BETTER_AUTH_SECRET": SECRET,
            "CHAT_MODEL": "tests.support.gated:GatedAgent",
            "RATE_LIMIT": "off",
            "RATE_LIMIT_CHAT": "off",
        }
        self.processes: list[Process] = []

    async def start(self) -> None:
        self.processes = [self._launch(port) for port in self.ports]
        for port in self.ports:
            await answers(f"http://127.0.0.1:{port}")

    async def relaunch(self, index: int) -> None:
        """Another process in the place of one that has ended."""
        self.processes[index] = self._launch(self.ports[index])
        await answers(f"http://127.0.0.1:{self.ports[index]}")

    async def stop(self) -> None:
        for process in self.processes:
            await process.__aexit__(None, None, None)

    def _launch(self, port: int) -> Process:
        return Process(self.directory, self._environ, port=port, program=GATED)


@pytest.fixture
async def database(server: Server) -> str:
    """Its name."""
    return await asyncio.to_thread(server.new_database)


@asynccontextmanager
async def fleet(directory: Path, database_url: str) -> AsyncIterator[Fleet]:
    replicas = Fleet(directory, database_url)
    try:
        await replicas.start()
        with proxied("haproxy", directory, replicas.ports) as replicas.url:
            yield replicas
    finally:
        await replicas.stop()


class Talker:
    """Streams turn after turn, and reads on wherever it can when a stream breaks."""

    def __init__(self, url: str, number: int, seen: Counter[str]) -> None:
        self.user_id = f"user-{number}"
        self.seconds = 0.2 if number % 2 else 1.0
        self.answers: list[str] = []
        self._url = url
        self._seen = seen
        self._conversation_id: int | None = None

    async def talk(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            title = uuid4().hex
            text = await self._whole_answer(
                f'say Well. \ncall add_task {{"title": "{title}"}}\nsleep {self.seconds}\nsay {title}'
            )
            assert text == f"Well. add_task: done. {title}"
            self.answers.append(text)

    async def _whole_answer(self, message: str) -> str:
        key = {"Idempotency-Key": uuid4().hex}
        body = {"message": message, "conversation_id": self._conversation_id}
        turn: tuple[int, int] | None = None
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            async with Client(self._url, self.user_id) as client:
                if turn is None:
                    stream = client.stream("POST", client.mine("/chat"), json=body, headers={**STREAM, **key})
                else:
                    path = client.mine(f"/chat/{turn[0]}/stream")
                    stream = client.stream("GET", path, params={"turn_id": turn[1]})
                turn, text = await self._read(stream)
            if text is not None:
                return text
            await asyncio.sleep(0.2)
        raise AssertionError(f"{self.user_id} was never answered: {self._seen}")

    async def _read(
        self, stream: AbstractAsyncContextManager[httpx.Response]
    ) -> tuple[tuple[int, int] | None, str | None]:
        """The answer if it was whole, else the turn if it is to be resumed; sent again if there is neither."""
        chunks: list[Chunk] = []
        turn: tuple[int, int] | None = None
        try:
            async with stream as response:
                if response.status_code != 200:
                    assert response.status_code in {409, 502, 503}, await response.aread()
                    self._seen[str(response.status_code)] += 1
                    return None, None
                async for chunk in chunks_of(response):
                    chunks.append(chunk)
                    ids = chunks[0]["messageMetadata"]
                    turn = (ids["conversation_id"], ids["turn_id"])
        except httpx.TransportError as error:
            self._seen[type(error).__name__] += 1
            return turn, None
        if chunks[-1]["type"] == "finish":
            self._conversation_id = chunks[0]["messageMetadata"]["conversation_id"]
            return turn, text_of(chunks)
        problem = chunks[-1]["problem"]["type"].removeprefix("urn:chatapi:problem:")
        assert problem in {"restarting", "interrupted"}, chunks[-1]
        self._seen[problem] += 1
        return (turn if problem == "restarting" else None), None


async def test_who_streams_sees_every_answer_whole_and_once(
    server: Server, database: str, directory: Path
) -> None:
    seen, stop = Counter[str](), asyncio.Event()
    async with fleet(directory, server.url(database)) as replicas:
        talkers = [Talker(replicas.url, number, seen) for number in range(CLIENTS)]
        async with asyncio.TaskGroup() as talking:
            for talker in talkers:
                talking.create_task(talker.talk(stop))
            for index in (0, 1):
                await asyncio.sleep(1)
                replicas.processes[index].terminate()
                assert await replicas.processes[index].wait() == 0
                await replicas.relaunch(index)
            await asyncio.sleep(1)
            replicas.processes[0].kill()
            stop.set()
    assert seen, "nobody noticed anything"
    connection = await asyncpg.connect(server.admin_url(database))
    for talker in talkers:
        assert talker.answers, talker.user_id
        stored = await connection.fetch(
            "SELECT role, content FROM messages WHERE user_id = $1 ORDER BY id", talker.user_id
        )
        assert [row["role"] for row in stored] == ["user", "assistant"] * len(talker.answers)
        assert [row["content"] for row in stored][1::2] == talker.answers
        tasks = await connection.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", talker.user_id)
        assert tasks == len(talker.answers)
    assert await connection.fetchval("SELECT count(*) FROM turn_chunks") == 0
    await connection.close()


async def test_a_turn_goes_on_when_its_streams_are_sent_elsewhere(
    server: Server, database: str, directory: Path
) -> None:
    """Its replica is told to stop, ends the stream in time, and answers the turn while another one streams it."""
    async with AsyncExitStack() as stack:
        replicas = await stack.enter_async_context(fleet(directory, server.url(database)))
        alice = await stack.enter_async_context(Client(replicas.url, "alice"))
        body = {"message": "say Once upon a time\ngate alice\nsay  there was."}
        chunks: list[Chunk] = []
        async with alice.stream("POST", "/api/chat", json=body, headers=STREAM) as response:
            index = int(response.headers["x-replica"].removeprefix("r"))
            async for chunk in chunks_of(response):
                chunks.append(chunk)
                if text_of(chunks) == "Once upon a time" and chunk["type"] == "text-delta":
                    replicas.processes[index].terminate()
        assert chunks[-1]["problem"]["type"] == "urn:chatapi:problem:restarting"
        ids = chunks[0]["messageMetadata"]
        path = alice.mine(f"/chat/{ids['conversation_id']}/stream")
        resumed: list[Chunk] = []
        async with alice.stream("GET", path, params={"turn_id": ids["turn_id"]}) as response:
            assert response.headers["x-replica"] != f"r{index}"
            async for chunk in chunks_of(response):
                resumed.append(chunk)
                if chunk["type"] == "text-delta":
                    (directory / "alice.open").touch()
        assert resumed[-1]["type"] == "finish"
        assert text_of(resumed) == "Once upon a time there was."
        assert await replicas.processes[index].wait() == 0
