"""An MCP server of the tests, written with the official SDK; run as a program it speaks over stdio."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import Field, WithJsonSchema
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.agents import CommandedAgent


def weather_server() -> MCPServer:  # noqa: C901 - a list of tools
    server = MCPServer("weather")

    @server.tool()
    async def forecast(city: str) -> str:
        """The weather of tomorrow."""
        return f"Rain in {city}"

    @server.tool()
    async def measure(
        station: Annotated[str, Field(pattern=r"^\w\d+$", max_length=2_000)],
        parent: int | None,
        unit: Literal["c", "f"] = "c",
        days: int | None = None,
    ) -> str:
        """A measurement, by arguments that a grammar of llama.cpp cannot be made of."""
        return f"{station} {parent} {unit} {days}"

    @server.tool()
    async def fail(reason: str) -> str:
        """Fails."""
        raise ToolError(reason)

    @server.tool()
    async def environment(name: str) -> str:
        """A variable of the server's environment."""
        return os.environ.get(name, "")

    @server.tool()
    async def process() -> int:
        """Who runs this."""
        return os.getpid()

    @server.tool()
    async def wait(name: str) -> str:
        """Waits at the gate of this name (only where server and test are one process)."""
        CommandedAgent.gates[name].reached.set()
        await CommandedAgent.gates[name].opened.wait()
        return "waited"

    @server.tool()
    async def leave() -> str:
        """Ends the server's process at once."""
        os._exit(1)

    @server.tool()
    async def look() -> CallToolResult:
        """Gives a picture, a link and files beside a text."""
        return CallToolResult(
            content=[
                TextContent(text="Here it is."),
                ImageContent(data="QUJDRA==", mime_type="image/png"),
                ResourceLink(name="map", uri="https://maps.example/1"),
                EmbeddedResource(
                    resource=TextResourceContents(uri="file:///notes.txt", text="Bring a coat.")
                ),
                EmbeddedResource(resource=BlobResourceContents(uri="file:///a.zip", blob="QUJD")),
            ],
            structured_content={"seen": True} if os.environ.get("STRUCTURED") else None,
        )

    @server.tool(name="a.name.that.no.model.takes")
    async def odd() -> str:
        return ""

    @server.tool()
    async def lie() -> Annotated[str, WithJsonSchema({"type": "integer"})]:
        """Gives something else than it promised."""
        return "no number"

    return server


class Listener:
    """Counts the requests of a server, and records their Authorization headers.

    With `sessions` the server speaks only the protocol's versions up to 2025-11-25, which begin with `initialize`. While it
    is `silent` it answers nothing.
    """

    def __init__(self, server: MCPServer, *, sessions: bool) -> None:
        self.server = server
        self.silent = False
        self._sessions = sessions
        self._app: ASGIApp = server.streamable_http_app(stateless_http=not sessions)
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            while self.silent and (await receive())["type"] != "http.disconnect":
                pass
            headers = dict(scope["headers"])
            self.seen.append(headers.get(b"authorization", b"").decode())
            if self._sessions and headers.get(b"mcp-method") == b"server/discover":
                await Response(status_code=404)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def weather_over_http(port: int = 0, *, sessions: bool = False) -> AsyncIterator[tuple[str, Listener]]:
    """The server on loopback; yields its URL and its listener."""
    app = Listener(weather_server(), sessions=sessions)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has nothing to wait for
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp", app
    finally:
        server.should_exit = True
        await serving


if __name__ == "__main__":
    weather_server().run("stdio")
