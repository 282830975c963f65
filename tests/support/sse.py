"""A strict reader of our streams: it accounts for every line, and takes only sequences that the protocol knows."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.serving import Client

Chunk = dict[str, Any]
STREAM = {"Accept": "text/event-stream"}
LAST = {"finish", "error", "abort"}
# With any other reason the AI SDK's client fails.
REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}


async def chunks_of(response: httpx.Response, *, goes_on: bool = False) -> AsyncIterator[Chunk]:
    """The stream's chunks as they arrive; fails unless it is one whole, well-formed UI message stream.

    `goes_on`: it follows answers, so its calls have begun in another stream.
    """
    assert response.status_code == 200, await response.aread()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert response.headers["x-accel-buffering"] == "no"
    checked = Checked(goes_on=goes_on)
    done = False
    async for line in response.aiter_lines():
        assert not done or not line, f"after [DONE]: {line}"
        if line.startswith("data: ") and line != "data: [DONE]":
            chunk = json.loads(line.removeprefix("data: "))
            checked.take(chunk)
            yield chunk
        else:
            done = done or line == "data: [DONE]"
            assert line in {"", "data: [DONE]", ": still here"}, line
    assert done
    checked.end()


async def streamed(
    client: Client, message: str, conversation_id: int | None = None, headers: dict[str, str] | None = None
) -> list[Chunk]:
    body: dict[str, Any] = {"message": message, "conversation_id": conversation_id}
    async with client.stream(
        "POST", client.mine("/chat"), json=body, headers={**STREAM, **(headers or {})}
    ) as response:
        return [chunk async for chunk in chunks_of(response)]


async def resumed(
    client: Client, conversation_id: int, turn_id: int | None = None, *, opened: asyncio.Event | None = None
) -> list[Chunk]:
    query = {} if turn_id is None else {"turn_id": turn_id}
    async with client.stream("GET", client.mine(f"/chat/{conversation_id}/stream"), params=query) as response:
        if opened is not None:
            opened.set()
        return [chunk async for chunk in chunks_of(response)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")


def types_of(chunks: list[Chunk]) -> list[str]:
    """The chunks' types in order. The deltas of one part count as one."""
    types = [chunk["type"] for chunk in chunks]
    return [
        type_
        for number, type_ in enumerate(types)
        if number == 0 or type_ != types[number - 1] or "delta" not in type_
    ]


START = {"type": "start", "messageId": "turn_1", "messageMetadata": {"conversation_id": 1, "turn_id": 1}}


@asynccontextmanager
async def answering(
    body: str = f"data: {json.dumps(START)}\n\n",
    *,
    status: str = "200 OK",
    media_type: str = "text/event-stream",
    goes_silent: bool = False,
) -> AsyncIterator[str]:
    """The base URL of a server that answers every request with this, by default a stream that ends after `start`.

    HTTP allows such an end. With `goes_silent` the connection stays open, and nothing more arrives.
    """
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", request)
        await reader.readexactly(int(length[1]) if length else 0)  # or closing would reset the connection
        head = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nConnection: close\r\n\r\n"
        writer.write(f"{head}{body}".encode())
        if goes_silent:
            await writer.drain()
            await over.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            over.set()


class Checked:
    """Checks the order of chunks (https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol)."""

    def __init__(self, *, goes_on: bool = False) -> None:
        self._goes_on = goes_on
        self._waits = False
        self._approvals: dict[str, str] = {}  # whether each was answered, by its call
        self._parts: dict[str, str] = {}  # the open parts, by id
        self._calls: dict[str, str] = {}
        self._in_step = False
        self._last = ""

    def take(self, chunk: Chunk) -> None:
        type_ = chunk["type"]
        assert (self._last == "") == (type_ == "start"), f"{type_} after {self._last}"
        assert self._last not in LAST, f"{type_} after {self._last}"
        assert (self._last, type_) != ("start-step", "finish-step")
        assert type_ != "finish" or chunk["finishReason"] in REASONS
        self._waits = type_ == "finish" and chunk.get("messageMetadata", {}).get("waiting", False)
        self._last = type_
        kind, _, what = type_.rpartition("-")
        match kind, what:
            case (("text" | "reasoning"), "start"):
                assert self._in_step
                assert not self._parts
                self._parts[chunk["id"]] = kind
            case (("text" | "reasoning"), "delta"):
                assert self._parts[chunk["id"]] == kind
                assert chunk["delta"]
            case (("text" | "reasoning"), "end"):
                assert self._parts.pop(chunk["id"]) == kind
            case "tool-input", _:
                assert self._in_step
                before: dict[str, Any] = {"start": [None], "available": ["start", "available"]}
                assert self._calls.get(chunk["toolCallId"]) in before[what]
                # A call that turns out to be the caller's is told a second time.
                assert self._calls.get(chunk["toolCallId"]) != "available" or not chunk["providerExecuted"]
                self._calls[chunk["toolCallId"]] = what
            case "tool-approval", "request":
                assert self._calls[chunk["toolCallId"]] == "available"
                self._approvals[chunk["approvalId"]] = "asked"
            case "tool-approval", "response":
                assert self._approvals[chunk["approvalId"]] == "asked"
                self._approvals[chunk["approvalId"]] = "answered"
            case "tool-output", _:
                assert self._goes_on or self._calls.pop(chunk["toolCallId"]) == "available"
            case "start", "step":
                assert not self._in_step
                self._in_step = True
            case "finish", "step":
                assert self._in_step
                assert not self._parts
                self._in_step = False
            case _:
                assert type_ in LAST | {"data-title", "data-compaction"} | {"start", "message-metadata"}, (
                    type_
                )

    def end(self) -> None:
        assert self._last in LAST
        assert not self._parts
        assert not self._in_step
        assert not self._calls or self._last != "finish" or self._waits
