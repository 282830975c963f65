"""A model's server with scripted answers, byte for byte: they repeat what real servers have sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn


@dataclass(frozen=True)
class Scripted:
    """One response, sent after `seconds`, or once all that wait at the barrier `together` are there.

    A stream's `pieces` are sent one by one; `is_cut` closes it before its end.
    """

    status: int = 200
    content_type: str = "application/json"
    pieces: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    is_cut: bool = False
    hangs: bool = False
    together: asyncio.Barrier | None = None


def refused(status: int, body: Any, **headers: str) -> Scripted:
    named = {name.replace("__", "_").replace("_", "-"): value for name, value in headers.items()}
    return Scripted(status=status, pieces=(json.dumps(body).encode(),), headers=named)


def whole(body: Any) -> Scripted:
    return Scripted(pieces=(json.dumps(body).encode(),))


def streamed(*events: Any, done: bool = True) -> Scripted:
    """A stream of events, each a JSON value or the text of one, with `[DONE]` after the last."""
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    pieces = [f"data: {text}\n\n".encode() for text in texts]
    return Scripted(
        content_type="text/event-stream", pieces=(*pieces, *([b"data: [DONE]\n\n"] if done else []))
    )


def delta(finish: str | None = None, **members: Any) -> dict[str, Any]:
    """A chunk of Chat Completions."""
    return {"choices": [{"index": 0, "delta": members, "finish_reason": finish}]}


def said(*words: str, finish: str = "stop") -> Scripted:
    return streamed(*(delta(content=word) for word in words), delta(finish))


def call(arguments: str = "{}", name: str = "list_tasks", **members: Any) -> dict[str, Any]:
    return {**members, "function": {"name": name, "arguments": arguments}}


@dataclass
class ScriptedServer:
    base_url: str = ""
    replies: list[Scripted] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    clients: set[Any] = field(default_factory=set)  # the other ends of the connections

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.clients.add(tuple(scope["client"]))
        self.bodies.append(json.loads(body or b"{}"))
        reply = self.replies.pop(0)
        await asyncio.sleep(reply.seconds)
        if reply.together is not None:
            await reply.together.wait()
        pairs = {"content-type": reply.content_type, **reply.headers}
        headers = [(name.encode(), value.encode()) for name, value in pairs.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for piece in reply.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if reply.hangs:
            while (await receive())["type"] != "http.disconnect":
                pass
        elif not reply.is_cut:
            await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serve_scripted(*replies: Scripted) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(replies=list(replies))
    server = uvicorn.Server(
        uvicorn.Config(scripted, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
        if serving.done():
            await serving
    scripted.base_url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.should_exit = True
        await serving
