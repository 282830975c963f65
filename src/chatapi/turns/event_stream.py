"""A response of events, which ends when they do or when its client hangs up."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

from litestar import Response
from litestar.background_tasks import BackgroundTask
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Send

from chatapi.openapi import EVENT_STREAM

STREAM_HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # or nginx would hold chunks back
}


class EventStream(Response[AsyncIterator[bytes]]):
    """Server-sent events, with status 200 and without cookies; `background` is run however they end.

    Litestar's own `Stream` has a task group of anyio's, which takes 3 KiB more for as long as it is open. Downloads, which
    are short, use that.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        headers: Mapping[str, str],
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(
            events, media_type=EVENT_STREAM, headers={**STREAM_HEADERS, **headers}, background=background
        )

    def to_asgi_response(self, *_: Any, headers: Mapping[str, str] | None = None, **__: Any) -> ASGIResponse:
        return ASGIEventStream(
            iterator=self.content,
            media_type=self.media_type,
            headers={**(headers or {}), **self.headers},
            background=self.background,
        )


class HungUp(Exception):
    """The client has gone."""


class ASGIEventStream(ASGIStreamingResponse):
    __slots__ = ()

    async def send_body(self, send: Send, receive: Receive) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(listen(receive))
                async for events in self.iterator:
                    await send(body(events, more=True))
                await send(body(b"", more=False))
                listening.cancel()
        except* HungUp:
            pass


def body(piece: bytes | str, *, more: bool) -> HTTPResponseBodyEvent:
    assert isinstance(piece, bytes)  # noqa: S101 - as an `EventStream` is made of
    return {"type": "http.response.body", "body": piece, "more_body": more}


async def listen(receive: Receive) -> NoReturn:
    """Raise `HungUp` when the client has, which ends the task group that this runs in."""
    await hung_up(receive)
    raise HungUp


async def hung_up(receive: Receive) -> None:
    """Wait until the client has gone; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
