"""Uvicorn with a bound on a request's head, a bound on the wait for a client that does not read, and a gentler shutdown.

Uvicorn's parser has no bound, and joins a long header piece by piece: one header of 100 MiB took the memory and half a
minute of CPU, in which the process answered nobody. Uvicorn would hold a stream for ever to a client that never reads.
At its shutdown it closes connections that have just been opened, and a proxy may not send their requests elsewhere.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import uvicorn
from msgspec import json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chatapi.errors.requests import HeadTooLarge
from chatapi.openapi import PROBLEM_MEDIA_TYPE
from chatapi.patience import Patience

# Request line and headers; a token has 16 KiB at the most, and cookies may come with it.
MAX_HEAD_BYTES = 64 * 1024
STALL_BYTES = 48 * 1024  # a client must read so much in `Patience.client_stall`; the slowest link can

REFUSAL = json.encode(HeadTooLarge().document)


class Server(uvicorn.Server):
    """Stops listening without losing a connection that the kernel has already accepted.

    The kernel would reset such a connection when the listening socket is closed. On a busy machine there are some,
    because they wait for the event loop.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        taken: list[socket.socket] = []
        for server in self.servers:
            for listening in server.sockets:
                taken += accept_all(listening)
            server.close()
        for connection in taken:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """The protocol that Uvicorn makes for each connection."""
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def accept_all(listening: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait to be accepted. An event loop's sockets cannot accept, so use a descriptor of our own."""
    with socket.socket(fileno=os.dup(listening.fileno())) as ours, suppress(BlockingIOError):
        ours.settimeout(0)
        while True:
            yield ours.accept()[0]


class Pipeline(list[Any]):
    """Requests that came before the answer to the one ahead of them was sent.

    Few clients send such, and Uvicorn's `deque` takes 0.7 KiB for each connection.
    """

    __slots__ = ()

    def appendleft(self, request: Any) -> None:
        self.insert(0, request)


class BoundedHttp(HttpToolsProtocol):
    """Answers 431 to a head over the bound and closes. It keeps no more than the bound and one read of the socket."""

    # Attributes of our own in the dictionary would be more than Python keeps without a table for each connection (30).
    __slots__ = ("_head_bytes", "_patience", "_reading_head", "_stalled", "_too_large")

    def __init__(self, *arguments: Any, patience: Patience, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience = patience
        self._reading_head = False
        self._head_bytes = 0
        self._too_large = False
        self.pipeline = Pipeline()  # type: ignore[assignment]
        self._stalled: asyncio.TimerHandle | None = None

    def shutdown(self) -> None:
        """Close idle connections after `client_opening`, and those with a request when it has been answered."""
        if self.cycle is None:
            self.loop.call_later(self._patience.client_opening, super().shutdown)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Start to watch the client: it does not read, and all buffers on the way to it are full."""
        super().pause_writing()
        self._wait_for_client()

    def _wait_for_client(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self._patience.client_stall, self._look_for_client, left)

    def _look_for_client(self, before: int) -> None:
        """Drop a client that reads too slowly. One that reads steadily has all the time that a long piece needs."""
        if self.transport.get_write_buffer_size() > before - STALL_BYTES:
            self.transport.abort()
        else:
            self._wait_for_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._stalled is not None:
            self._stalled.cancel()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._reading_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._too_large = True
            raise HeadTooLarge  # in the parser's callback, so that it reads no further
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self._too_large:
            return  # drop the rest
        super().data_received(data)
        if self._reading_head:  # the head has not ended, so all of this data was head
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Answer a request that Uvicorn cannot parse, or 431 to one whose head is too large."""
        if not self._too_large:
            super().send_400_response(msg)
            return
        head = (
            f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: {PROBLEM_MEDIA_TYPE}\r\n"
            f"content-length: {len(REFUSAL)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + REFUSAL)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self._patience.client_linger, self.transport.close)
