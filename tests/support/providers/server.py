"""The providers' APIs over real HTTP on a port of its own: one server that speaks all the formats."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import uvicorn

from tests.support.providers import anthropic, gemini, openai_chat, openai_responses
from tests.support.providers.brain import Asked, Brain, Refused, Reply


class Format(Protocol):
    """One API: it reads requests, refuses those that the vendor refuses, and writes answers."""

    def read(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Asked: ...

    def stream(self, asked: Asked, reply: Reply) -> AsyncIterator[str]: ...

    def whole(self, asked: Asked, reply: Reply) -> dict[str, Any]: ...

    def refusal(self, refused: Refused) -> tuple[dict[str, Any], dict[str, str]]: ...


class Dropped(Exception):
    """The server closes the connection of a response that has no end."""


@dataclass
class Request:
    path: str
    body: dict[str, Any]
    refused: str | None = None

    @cached_property
    def text(self) -> str:
        return json.dumps(self.body)


@dataclass
class Providers:
    """Running fakes. `requests` are all requests, in order; an invalid one has the reason in `refused`."""

    base_url: str = ""
    requests: list[Request] = field(default_factory=list)
    given: int = 0  # whole answers, each with its usage
    hung_up_on: set[str] = field(default_factory=set)  # messages whose answer's stream the client closed
    brain: Brain = field(default_factory=Brain)
    formats: dict[str, Format] = field(
        default_factory=lambda: {
            "/v1/chat/completions": openai_chat.Api(),
            "/v1/responses": openai_responses.Api(),
            "/v1/messages": anthropic.Api(),
            "/v1beta/models": gemini.Api(),
        }
    )

    @property
    def environ(self) -> dict[str, str]:
        """The settings that point to these fakes."""
        return {
            "OPENAI_BASE_URL": f"{self.base_url}/v1",
            "OPENAI_API_KEY": "key-of-openai",
            "GEMINI_BASE_URL": self.base_url,
            "GEMINI_API_KEY": "key-of-gemini",
            "ANTHROPIC_BASE_URL": self.base_url,
            "ANTHROPIC_API_KEY": "key-of-anthropic",
        }

    @property
    def settings(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.environ.items()}

    def of(self, text: str) -> list[Request]:
        """The requests that contain `text`."""
        return [request for request in self.requests if text in request.text]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        with suppress(Dropped):
            await self._answer(scope["path"], headers, json.loads(body), receive, send)

    async def _answer(
        self, path: str, headers: dict[str, str], body: dict[str, Any], receive: Any, send: Any
    ) -> None:
        request = Request(path, body)
        self.requests.append(request)
        api = next(api for prefix, api in self.formats.items() if path.startswith(prefix))
        streaming = body.get("stream") or path.endswith(":streamGenerateContent")
        try:
            try:
                asked = api.read(path, headers, body)
            except Refused as refused:
                request.refused = refused.message
                raise
            reply = await self.brain.reply(asked)
        except Refused as refused:
            content, extra = api.refusal(refused)
            await respond(send, refused.status, json.dumps(content), extra)
            return
        if streaming and reply.finish == "hang":
            await begin_stream(send, api.stream(asked, replace(reply, finish="cut")))
            assert (await receive())["type"] == "http.disconnect"
            self.hung_up_on.add(asked.message)
        elif streaming:
            await stream(send, api.stream(asked, reply), drop=reply.finish == "drop")
            self.given += reply.finish in openai_chat.FINISH
        else:
            await respond(send, 200, json.dumps(api.whole(asked, reply)), {})
            self.given += 1


async def respond(send: Any, status: int, content: str, headers: dict[str, str]) -> None:
    pairs = {"content-type": "application/json", **headers}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
        }
    )
    await send({"type": "http.response.body", "body": content.encode()})


async def stream(send: Any, events: AsyncIterator[str], *, drop: bool) -> None:
    await begin_stream(send, events)
    if drop:
        raise Dropped
    await send({"type": "http.response.body", "body": b""})


async def begin_stream(send: Any, events: AsyncIterator[str]) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for event in events:
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})


@asynccontextmanager
async def serve_providers() -> AsyncIterator[Providers]:
    providers = Providers()
    server = uvicorn.Server(
        uvicorn.Config(providers, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if serving.done():
            await serving
    providers.base_url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield providers
    finally:
        server.should_exit = True
        await serving
