"""Streams of two processes behind real proxies, without stickiness."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.chaos.harness import answers
from tests.support import proxies
from tests.support.postgres import Postgres, free_port
from tests.support.serving import GATED, SECRET, Client, Process
from tests.support.sse import STREAM, Chunk, chunks_of, text_of

pytestmark = pytest.mark.slow

REPLICAS = 2


class Replicas:
    """Their proxy's address, and the directory that they work in."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self._directory = directory

    def open(self, gate: str) -> None:
        (self._directory / f"{gate}.open").touch()


@pytest.fixture(scope="module", params=proxies.KINDS)
async def replicas(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Replicas]:
    kind: str = request.param
    if why := proxies.missing(kind):
        pytest.skip(why)
    directory = tmp_path_factory.mktemp(kind)
    database_url = postgres.url(await asyncio.to_thread(postgres.new_database))
    environ = {
        "DATABASE_URL": database_url,
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "tests.support.gated:GatedAgent",
    }
    ports = [free_port() for _ in range(REPLICAS)]
    async with AsyncExitStack() as stack:
        for port in ports:
            await stack.enter_async_context(Process(directory, environ, port=port, program=GATED))
        for port in ports:
            await answers(f"http://127.0.0.1:{port}")
        yield Replicas(stack.enter_context(proxies.proxied(kind, directory, ports)), directory)


@pytest.fixture
async def alice(replicas: Replicas) -> AsyncIterator[Client]:
    async with Client(replicas.url, f"alice-{uuid4().hex}") as client:
        yield client


class Stream:
    """A stream that is read as far as a test wants."""

    def __init__(self, response: httpx.Response) -> None:
        self.replica = response.headers["x-replica"]
        self.chunks: list[Chunk] = []
        self._coming = chunks_of(response)

    @property
    def ids(self) -> tuple[int, int]:
        metadata = self.chunks[0]["messageMetadata"]
        return metadata["conversation_id"], metadata["turn_id"]

    async def says(self, text: str) -> None:
        """Read until it has said so much."""
        async for chunk in self._coming:
            self.chunks.append(chunk)
            if text_of(self.chunks).endswith(text):
                return
        raise AssertionError(f"it never said {text}: {self.chunks}")

    async def end(self) -> str:
        """Read the rest; the last chunk's type."""
        self.chunks += [chunk async for chunk in self._coming]
        last: str = self.chunks[-1]["type"]
        return last


class Reading:
    """The streams of one client, all open until the end."""

    def __init__(self, client: Client, stack: AsyncExitStack) -> None:
        self._client = client
        self._stack = stack

    async def send(self, message: str, **headers: str) -> Stream:
        return await self._stream("POST", "/chat", json={"message": message}, headers={**STREAM, **headers})

    async def resume(self, conversation_id: int) -> Stream:
        return await self._stream("GET", f"/chat/{conversation_id}/stream")

    async def _stream(self, method: str, path: str, **options: object) -> Stream:
        opening = self._client.stream(method, self._client.mine(path), **options)  # type: ignore[arg-type]
        return Stream(await self._stack.enter_async_context(opening))


@pytest.fixture
async def reading(alice: Client) -> AsyncIterator[Reading]:
    async with AsyncExitStack() as stack:
        yield Reading(alice, stack)


async def test_words_pass_the_proxy_while_the_agent_still_thinks(
    replicas: Replicas, alice: Client, reading: Reading
) -> None:
    """In order, not in time: the agent goes on only when its first words have been read behind the proxy."""
    gates = [f"{alice.user_id}-{number}" for number in range(3)]
    message = "\n".join(f"say {number},\ngate {gate}" for number, gate in enumerate(gates))
    stream = await reading.send(f"{message}\nsay done.")
    for number, gate in enumerate(gates):
        await stream.says(f"{number},")
        replicas.open(gate)
    assert await stream.end() == "finish"
    assert text_of(stream.chunks) == "0,1,2,done."


async def test_every_replica_resumes_a_turn_that_one_runs(
    replicas: Replicas, alice: Client, reading: Reading
) -> None:
    sent = await reading.send(
        f'call add_task {{"title": "milk"}}\nsay Once upon a time\ngate {alice.user_id}\nsay  there was.'
    )
    await sent.says("Once upon a time")
    conversation_id, _ = sent.ids
    resumed = [await reading.resume(conversation_id) for _ in range(2 * REPLICAS)]
    assert len({stream.replica for stream in resumed}) == REPLICAS
    for stream in resumed:
        await stream.says("Once upon a time")
    replicas.open(alice.user_id)
    for stream in (sent, *resumed):
        assert await stream.end() == "finish"
        assert text_of(stream.chunks) == "add_task: done. Once upon a time there was."
        assert stream.chunks[-1] == sent.chunks[-1]
    _, stored = await alice.messages(conversation_id)
    assert stored["content"] == text_of(sent.chunks)


async def test_a_cancel_reaches_the_replica_that_runs_the_turn(alice: Client, reading: Reading) -> None:
    same_replica = set()
    for number in range(2 * REPLICAS):
        sent = await reading.send(f"say Once\ngate {alice.user_id}-{number}")
        await sent.says("Once")
        _, turn_id = sent.ids
        cancelled = await alice.post(alice.mine(f"/turns/{turn_id}/cancel"))
        assert cancelled.status_code == 202
        same_replica.add(sent.replica == cancelled.headers["x-replica"])
        assert await sent.end() == "abort"
        if (
            number == 0
        ):  # so that both replicas cancel turns of their own, or both those of the other, but not always
            await alice.get(alice.mine("/conversations"))
    assert False in same_replica


async def test_a_retry_with_the_key_joins_the_turn_that_another_replica_runs(
    replicas: Replicas, alice: Client, reading: Reading
) -> None:
    message, key = f"say Once\ngate {alice.user_id}\nsay  and for all.", {"Idempotency-Key": uuid4().hex}
    streams = [await reading.send(message, **key) for _ in range(2 * REPLICAS)]
    assert len({stream.replica for stream in streams}) == REPLICAS
    for stream in streams:
        await stream.says("Once")
    replicas.open(alice.user_id)
    for stream in streams:
        assert await stream.end() == "finish"
        assert (stream.ids, text_of(stream.chunks)) == (streams[0].ids, "Once and for all.")
    conversation_id, _ = streams[0].ids
    assert len(await alice.messages(conversation_id)) == 2
