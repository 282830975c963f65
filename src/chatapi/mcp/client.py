"""Connects to the operator's own MCP servers and makes their tools the assistant's.

All turns share one connection to each server. A task for each server opens the connection, lists the tools, waits
until the connection breaks, and opens it again. A call in between fails immediately.

No call ends the session that it shares with others. One that fails has the tools listed again immediately, and only a
server that does not answer this either is given up.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeAlias

import httpx2
from mcp import Client, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from chatapi.agent.ports import ToolError
from chatapi.agent.schemas import offer
from chatapi.agent.tools import ExternalTool
from chatapi.mcp.servers import HttpServer, Server, StdioServer
from chatapi.patience import Patience

log = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0  # the SDK asks a process to end, and kills it, within six seconds
LINGER_SECONDS = 1.0  # waits for other calls in a session that the server has forgotten
SESSION_ID = "mcp-session-id"
MAX_TOOLS = 128  # the most that providers accept
MAX_RESULT = 100_000  # characters; a model's context is limited
BAD_RESULT = "{} gave a result that does not fit its own description; the call may have taken effect."
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # the tool names that providers accept


Saw: TypeAlias = Callable[[httpx2.Response], Awaitable[None]]


class Session:
    """One period of a connection, from its first answer until it breaks."""

    def __init__(self) -> None:
        self.client: Client | None = None  # while it can be called
        self.was_open = False
        self.forgotten = False  # by a server that is up, so the next session may begin immediately
        self.doubted = asyncio.Event()  # a call failed as if the connection were lost
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, client: Client) -> None:
        self.client = client
        self.was_open = True

    async def saw(self, response: httpx2.Response) -> None:
        """Note a 404: a server that does not know the session answers so (2025-11-25, "Session Management")."""
        if response.status_code == 404 and SESSION_ID in response.request.headers and self.client is not None:
            self.forgotten = True

    async def until_doubted(self, seconds: float) -> None:
        """Wait for a doubt, for so many seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.doubted.wait()
        self.doubted.clear()

    async def call(self, client: Client, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        self._calls += 1
        self._idle.clear()
        try:
            return await client.call_tool(tool, arguments)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def wait_for_calls(self) -> None:
        """Wait for the other calls, which are getting the same 404: closing now would hide it from them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._idle.wait()


class Connection:
    """A connection to one server. `tools` are those that it offers now: none while it is away."""

    def __init__(self, name: str, server: Server, patience: Patience) -> None:
        self.name = name
        self.tools: dict[str, ExternalTool] = {}
        self.settled = asyncio.Event()  # the first try has succeeded or failed
        self._away = f"{name} is away at the moment."
        self._server = server
        self._patience = patience
        self._session = Session()
        self._renewed = asyncio.Event()  # not set while a new session replaces a forgotten one
        self._renewed.set()

    @property
    def is_connected(self) -> bool:
        return self._session.client is not None

    async def keep(self) -> None:
        """Keep the connection open until cancelled."""
        pause = self._patience.mcp_retry
        while True:
            session = self._session = Session()
            try:
                await self._connect_and_wait(session)
            except Exception as error:  # noqa: BLE001 - any failure of a server costs only its tools
                if not session.forgotten:
                    log.warning(
                        "The MCP server %s is away (%s); its tools are left out", self.name, reason(error)
                    )
            finally:
                self.settled.set()
            if is_cancelled():  # the SDK may turn the cancellation into another error
                return
            if session.forgotten:
                self._renewed.clear()
                log.info("The MCP server %s has forgotten its session, which is begun anew", self.name)
                continue
            self.tools = {}
            self._renewed.set()
            if session.was_open:
                pause = self._patience.mcp_retry
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._patience.mcp_longest_retry)

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """The result as a JSON value; raises `ToolError` for any failure."""
        session = self._session
        is_repeated = False
        try:
            async with asyncio.timeout(self._patience.mcp_call):
                while True:
                    await self._renewed.wait()
                    session = self._session
                    if session.client is None:
                        raise ToolError(self._away)
                    try:
                        return result_of(await session.call(session.client, tool, arguments))
                    except MCPError as error:
                        if is_repeated or not session.forgotten or error.code == types.CONNECTION_CLOSED:
                            raise
                    # Safe to repeat: the server has not heard of the call.
                    is_repeated = True
                    self._renew(session)
        except Exception as error:  # noqa: BLE001 - see keep
            raise self._failure(error, session, tool) from None

    def _renew(self, forgotten: Session) -> None:
        """Let calls wait for the next session, unless another call has seen to that."""
        if forgotten is self._session:
            self._renewed.clear()
            forgotten.doubted.set()

    def _failure(self, error: Exception, session: Session, tool: str) -> ToolError:
        """The error that a model reads; a session that may be lost is doubted."""
        match error:
            case ToolError():
                return error
            case TimeoutError():
                session.doubted.set()
                return ToolError(f"{self.name} did not answer within {self._patience.mcp_call:g} s.")
            case MCPError(code=code, message=message) if code != types.CONNECTION_CLOSED:
                return ToolError(f"{self.name} refused the call: {message}")
            # The SDK checks results, by the tool's schema and the protocol's.
            case RuntimeError() | ValueError():
                log.warning(
                    "The tool %s of the MCP server %s gave a result that breaks its schema", tool, self.name
                )
                return ToolError(BAD_RESULT.format(self.name))
        log.warning("A call of the MCP server %s failed (%s)", self.name, reason(error))
        session.doubted.set()
        return ToolError(self._away)

    async def _connect_and_wait(self, session: Session) -> None:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._patience.mcp_connect):
                client = await stack.enter_async_context(
                    Client(await transport(self._server, stack, session.saw, self._patience))
                )
                await self._list(client)
            session.open(client)
            self.settled.set()
            self._renewed.set()
            try:
                await self._watch(session, client)
            finally:
                session.client = None
            await session.wait_for_calls()

    async def _watch(self, session: Session, client: Client) -> None:
        """List the tools now and then, and when a call raises a doubt; returns once calls wait for the next session."""
        while True:
            await session.until_doubted(self._patience.mcp_probe)
            if not self._renewed.is_set():
                return
            async with asyncio.timeout(self._patience.mcp_connect):
                await self._list(client)

    async def _list(self, client: Client) -> None:
        listed: list[types.Tool] = []
        cursor: str | None = None
        while len(listed) < MAX_TOOLS:
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            listed += page.tools
            if (cursor := page.next_cursor) is None:
                break
        self.tools = {each.name: each for each in map(self._external, listed[:MAX_TOOLS]) if each is not None}

    def _external(self, tool: types.Tool) -> ExternalTool | None:
        name = f"{self.name}__{tool.name}"
        if not NAME.fullmatch(name):
            log.warning("A tool of the MCP server %s is left out: %r is no name for a model", self.name, name)
            return None

        offered = offer(tool.input_schema)

        async def call(arguments: dict[str, Any]) -> Any:
            return await self.call(tool.name, {**dict.fromkeys(offered.nulls), **arguments})

        return ExternalTool(
            name=name,
            description=offered.describe(tool.description or tool.title or tool.name),
            parameters=offered.schema,
            call=call,
            destructive=may_destroy(tool.annotations),
        )


def may_destroy(annotations: types.ToolAnnotations | None) -> bool:
    """As the protocol says: a tool that says nothing may (`ToolAnnotations` in its schema)."""
    if annotations is None:
        return True
    return not annotations.read_only_hint and annotations.destructive_hint is not False


def is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class ExternalTools:
    """The tools of all servers, as a function, because servers come and go. `start` waits briefly for each."""

    def __init__(self, servers: Mapping[str, Server], patience: Patience) -> None:
        self._patience = patience
        self._connections = [Connection(name, server, patience) for name, server in servers.items()]
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self) -> dict[str, ExternalTool]:
        return {name: tool for each in self._connections for name, tool in each.tools.items()}

    @property
    def away(self) -> list[str]:
        """The names of the servers that are not connected."""
        return [each.name for each in self._connections if not each.is_connected]

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(each.keep()) for each in self._connections]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience.mcp_start):
                for each in self._connections:
                    await each.settled.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)


async def transport(server: Server, stack: AsyncExitStack, saw: Saw, patience: Patience) -> Any:
    """Open the transport; `saw` gets every answer over HTTP."""
    match server:
        case HttpServer(url=url, headers=headers):
            http = await stack.enter_async_context(
                httpx2.AsyncClient(
                    headers=headers,
                    # Calls and probes have times of their own. A read that timed out here would end the session.
                    timeout=httpx2.Timeout(patience.mcp_call, read=None),
                    event_hooks={"response": [saw]},
                )
            )
            return streamable_http_client(url, http_client=http)
        case StdioServer(command=command, args=args, env=env):
            return stdio_client(StdioServerParameters(command=command, args=args, env=env))


def result_of(result: types.CallToolResult) -> Any:
    """The tool's value, else its text; raises `ToolError` with the text if the tool says that it failed."""
    text = shortened("\n".join(text_of(each) for each in result.content))
    if result.is_error:
        raise ToolError(text or "The tool failed and does not say why.")
    structured = result.structured_content
    if structured is None or len(str(structured)) > MAX_RESULT:
        return {"text": text}
    # The text repeats the value; other content is nowhere else.
    others = [text_of(each) for each in result.content if not isinstance(each, types.TextContent)]
    return {"structured_content": structured, "text": shortened("\n".join(others))} if others else structured


def text_of(content: types.ContentBlock) -> str:
    """The text for a model: text unchanged, other content by its kind, so that the model knows that it is missing."""
    match content:
        case types.TextContent(text=text):
            return text
        case types.EmbeddedResource(resource=resource):
            if isinstance(resource, types.TextResourceContents):
                return f"{resource.uri}:\n{resource.text}"
            return left_out(f"file {resource.uri}", resource.mime_type, resource.blob)
        case types.ImageContent(mime_type=kind, data=data):
            return left_out("picture", kind, data)
        case types.AudioContent(mime_type=kind, data=data):
            return left_out("sound", kind, data)
        case types.ResourceLink(uri=uri, name=name, description=description):
            return f"[A link to {name}, {uri}{f': {description}' if description else ''}]"


def left_out(what: str, kind: str | None, data: str) -> str:
    """A note in place of base64 data, with its size: four characters are three bytes."""
    return f"[A {what} ({kind or 'of unknown kind'}, {len(data) * 3 // 4} bytes) was left out: only text can be read.]"


def shortened(text: str) -> str:
    if len(text) <= MAX_RESULT:
        return text
    return f"{text[:MAX_RESULT]}\n[{len(text) - MAX_RESULT} characters more were left out.]"


def reason(error: BaseException) -> str:
    """The class of the innermost error, without its text, which may hold a header or an address with a secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
