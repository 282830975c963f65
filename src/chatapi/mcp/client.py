"""MCP servers of the operator's own, as further tools of the assistant.

Each server has one connection, which all turns share and which is kept by a task of its own: it opens the connection,
lists the tools, waits until the connection breaks, and opens it again. Whoever calls meanwhile is told at once.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from chatapi.agent.ports import ToolError
from chatapi.agent.schemas import offer
from chatapi.agent.tools import ExternalTool
from chatapi.mcp.config import HttpServer, Server, StdioServer

log = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0  # a server in a package that is fetched first needs a while
START_SECONDS = 5.0  # how long a start waits for servers; those that take longer come later
CALL_SECONDS = 30.0  # half of an answer's default time
PROBE_SECONDS = 30.0  # how soon a server that fell silent, or that has other tools now, is noticed
RETRY_SECONDS = (1.0, 30.0)  # the first pause before another try, doubled up to the second
CLOSE_SECONDS = 10.0  # the SDK asks a process to end, and kills it, within six
MAX_TOOLS = 128  # what providers take
MAX_RESULT = 100_000  # characters; a model's context ends somewhere
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what providers take for a tool's name


class Connection:
    """To one server. `tools` are those that it offers at this moment: none while it is away."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.tools: dict[str, ExternalTool] = {}
        self.settled = asyncio.Event()  # the first try is over, one way or the other
        self._server = server
        self._client: Client | None = None
        self._broken = asyncio.Event()

    async def keep(self) -> None:
        """Until cancelled."""
        pause = RETRY_SECONDS[0]
        while True:
            try:
                await self._connect_and_wait()
                pause = RETRY_SECONDS[0]
            except Exception as error:  # noqa: BLE001 - whatever a server does costs its tools and nothing else
                log.warning(
                    "The MCP server %s is away (%s); its tools are left out", self.name, reason(error)
                )
            finally:
                self._client, self.tools = None, {}
                self.settled.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_SECONDS[1])

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """The result as a JSON value; raises `ToolError` for whatever comes instead."""
        if (client := self._client) is None:
            raise ToolError(f"{self.name} is away at the moment.")
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return result_of(await client.call_tool(tool, arguments))
        except ToolError:
            raise
        except TimeoutError:
            self._broken.set()  # a new connection costs little, and may be all that it takes
            raise ToolError(f"{self.name} did not answer within {CALL_SECONDS:g} s.") from None
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                self._broken.set()
                raise ToolError(f"{self.name} is away at the moment.") from None
            raise ToolError(f"{self.name} refused the call: {error.message}") from None
        except Exception as error:  # noqa: BLE001 - see keep
            log.warning("A call of the MCP server %s failed (%s)", self.name, reason(error))
            self._broken.set()
            raise ToolError(f"{self.name} is away at the moment.") from None

    async def _connect_and_wait(self) -> None:
        self._broken = asyncio.Event()
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(CONNECT_SECONDS):
                client = await stack.enter_async_context(Client(await transport(self._server, stack)))
                await self._list(client)
            self._client = client
            self.settled.set()
            while not self._broken.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._broken.wait(), PROBE_SECONDS)
                    break
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._list(client)
            self._client = None

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
        )


class ExternalTools:
    """The tools of all servers, as a function, since servers come and go. `start` waits a little for each to come."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._connections = [Connection(name, server) for name, server in servers.items()]
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self) -> dict[str, ExternalTool]:
        return {name: tool for each in self._connections for name, tool in each.tools.items()}

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(each.keep()) for each in self._connections]
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                for each in self._connections:
                    await each.settled.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)


async def transport(server: Server, stack: AsyncExitStack) -> Any:
    match server:
        case HttpServer(url=url, headers=headers):
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=CALL_SECONDS))
            return streamable_http_client(url, http_client=http)
        case StdioServer(command=command, args=args, env=env):
            return stdio_client(StdioServerParameters(command=command, args=args, env=env))


def result_of(result: types.CallToolResult) -> Any:
    """What the tool gave as a value, else its text; raises `ToolError` with the text if it says that it failed."""
    text = "\n".join(each.text for each in result.content if isinstance(each, types.TextContent))
    if result.is_error:
        raise ToolError(text[:MAX_RESULT] or "The tool failed and does not say why.")
    if result.structured_content is not None and len(str(result.structured_content)) <= MAX_RESULT:
        return result.structured_content
    return {"text": text[:MAX_RESULT]}


def reason(error: BaseException) -> str:
    """The kind of the innermost error: its text might hold a header or an address with a secret in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
