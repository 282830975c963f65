"""The response that streams events, below a server that is played here by its `receive` and `send`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar.background_tasks import BackgroundTask

from chatapi.turns.event_stream import EventStream


class Server:
    """An ASGI server: `sent` is what it sends, and `gone` is set when its client has hung up or has all."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.gone = asyncio.Event()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message.get("body", b"the head"))
        if message.get("more_body") is False:
            self.gone.set()

    async def run(self, events: AsyncIterator[bytes], background: BackgroundTask | None = None) -> None:
        response = EventStream(events, {}, background).to_asgi_response(None, None)
        scope: Any = {"type": "http"}
        await response(scope, self.receive, self.send)


async def until_told(ended: list[str], *, fails: bool = False) -> AsyncIterator[bytes]:
    """One event, and then none until the stream is ended from outside; notes that it has ended."""
    try:
        yield b"one"
        if fails:
            raise ZeroDivisionError
        await asyncio.Event().wait()
    finally:
        ended.append("the events")


async def test_sends_all_events_and_then_the_end() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    server = Server()
    await server.run(events())
    assert server.sent == [b"the head", b"one", b"two", b""]


@pytest.mark.parametrize("early", [True, False])
async def test_ends_when_the_client_hangs_up_and_then_does_what_is_left_to_do(*, early: bool) -> None:
    ended: list[str] = []
    server = Server()
    if early:
        server.gone.set()
    serving = asyncio.create_task(
        server.run(until_told(ended), BackgroundTask(ended.append, "the background"))
    )
    while b"one" not in server.sent:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0)
    server.gone.set()
    await serving
    assert ended == ["the events", "the background"]
    assert b"" not in server.sent


async def test_fails_with_its_events() -> None:
    ended: list[str] = []
    with pytest.raises(ExceptionGroup) as raised:
        await Server().run(until_told(ended, fails=True))
    assert raised.group_contains(ZeroDivisionError)


async def test_ends_when_what_it_waits_for_is_cancelled() -> None:
    """Or its client would wait for ever."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def events() -> AsyncIterator[bytes]:
        yield b"one"
        yield await future

    serving = asyncio.create_task(Server().run(events()))
    await asyncio.sleep(0)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_ends_when_the_server_cancels_it() -> None:
    ended: list[str] = []
    server = Server()
    serving = asyncio.create_task(server.run(until_told(ended)))
    while b"one" not in server.sent:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert ended == ["the events"]
