"""What callers get from the proxy of deploy/haproxy.cfg when there is trouble behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.haproxy import PROGRAM, HAProxy
from tests.support.metrics import scrape
from tests.support.postgres import Postgres, free_port
from tests.support.proxy import proxy
from tests.support.serving import Client, anybody, serve, settings_for

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="HAProxy is not installed")

FALL = 3  # checks that fail before a replica is asked no more


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


async def probed(url: str, status: int, times: int) -> None:
    """Wait until a replica has answered so many more probes so."""
    until = await probes(url, status) + times
    while await probes(url, status) < until:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)  # for the proxy to hear it


async def probes(url: str, status: int) -> float:
    return (await scrape(url)).get("requests_total", method="GET", route="/health/ready", status=status)


@pytest.mark.slow
async def test_without_the_database_the_service_itself_says_so(postgres: Postgres, directory: Path) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    async with proxy(postgres.port) as between:
        settings = settings_for(postgres.url(name, port=between.port))
        async with serve(settings) as one, serve(settings) as two:
            front = await asyncio.to_thread(HAProxy, directory, [port_of(one), port_of(two)])
            try:
                async with Client(front.url, "alice") as alice:
                    assert (await alice.chat("say x")).status_code == 200
                    between.cut()
                    await asyncio.gather(*(probed(url, 503, FALL) for url in (one, two)))
                    for response in [await alice.chat("say x"), await alice.get("/api/alice/tasks")]:
                        assert (response.status_code, response.json()["type"]) == (
                            503,
                            "urn:chatapi:problem:database-unavailable",
                        )
                        assert response.headers["Content-Type"] == "application/problem+json"
                        assert int(response.headers["Retry-After"]) >= 1
                        assert response.headers["X-Request-ID"]
                    assert (await alice.get("/api/me")).status_code == 200
                    between.heal()
                    await asyncio.gather(*(probed(url, 200, 1) for url in (one, two)))
                    while (await alice.chat("say x")).status_code == 503:  # noqa: ASYNC110 - until each has looked
                        await asyncio.sleep(0.1)
                    assert (await alice.chat("say x")).status_code == 200
            finally:
                front.close()


async def test_without_a_replica_the_proxy_says_so_in_the_same_form(directory: Path) -> None:
    front = await asyncio.to_thread(HAProxy, directory, [free_port(), free_port()])
    try:
        async with Client(front.url, "alice") as alice:
            response = await alice.chat("say x")
    finally:
        front.close()
    assert (response.status_code, response.json()["status"]) == (503, 503)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert int(response.headers["Retry-After"]) >= 1


async def test_metrics_are_for_those_who_ask_a_replica_itself(directory: Path) -> None:
    async with serve(settings_for(f"sqlite:///{directory / 'chatapi.db'}")) as url:
        front = await asyncio.to_thread(HAProxy, directory, [port_of(url), port_of(url)])
        try:
            async with anybody(front.url) as world:
                for path in (
                    "/metrics",
                    "/metrics?x=1",
                    "/metrics/",
                    "//metrics",
                    "/%6Detrics",
                    "/%2Fmetrics",
                    "/metrics%2F",
                ):
                    assert (await world.get(url + path)).status_code == 200, "else it need not be denied"
                    assert (await world.get(front.url + path)).status_code == 404, path
                assert (await world.get("/health")).status_code == 200
        finally:
            front.close()


Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def before(directory: Path, handler: Handler) -> AsyncIterator[str]:
    """The proxy's address, before a replica that is ready and does this with all else as soon as it has the head."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /health/ready"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            await handler(writer)
        writer.close()

    async with await asyncio.start_server(serve_one, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        front = await asyncio.to_thread(HAProxy, directory, [port, port])
        try:
            yield front.url
        finally:
            front.close()


async def test_a_word_passes_before_the_next_is_said(directory: Path) -> None:
    """Held for 0.2 s each, forty of them would take eight seconds."""
    read = asyncio.Event()

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(40):
            read.clear()
            writer.write(b"5\r\nword \r\n")
            await read.wait()
        writer.write(b"0\r\n\r\n")

    async with before(directory, say) as url, httpx.AsyncClient() as client, asyncio.timeout(4):
        words = 0
        async with client.stream("POST", url) as response:
            async for _ in response.aiter_raw():
                words += 1
                read.set()
    assert words == 40


@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "without one"])
async def test_a_request_whose_body_comes_late_is_sent_again_if_it_has_a_key(
    directory: Path, *, keyed: bool
) -> None:
    """To a replica that answers, after one that ended with the request in hand."""
    tries = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)
        yield b"{}"

    key = {"Idempotency-Key": uuid4().hex} if keyed else {}
    async with before(directory, answer) as url, httpx.AsyncClient() as client:
        response = await client.post(url, content=body(), headers={"Content-Length": "2", **key})
    assert (response.status_code, tries) == ((200, 2) if keyed else (502, 1))
