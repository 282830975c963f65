"""Serves a user's data over the Model Context Protocol: the task tools, and the conversations as resources.

The official SDK speaks the protocol (https://modelcontextprotocol.io/specification/2026-07-28, and the versions from
before it was stateless). The token decides whose data it is: `mcp.endpoint` has checked it, and the request's scope
holds its user. Importing this module imports the SDK, which takes more than a second: see `mcp.endpoint`.
"""

import logging
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import msgspec
from mcp import types
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import ClientDisconnect, Request

from chatapi import __version__
from chatapi.agent.tools import TASK_TOOLS, Tool, call_tool, object_schema
from chatapi.auth.tokens import Identity
from chatapi.conversations.schemas import Conversation
from chatapi.conversations.service import ConversationService
from chatapi.conversations.tools import CONVERSATION_TOOLS, Read, read
from chatapi.db.database import Database, Work
from chatapi.db.failures import is_transient, unavailable
from chatapi.db.paging import MAX_ID
from chatapi.db.schema import Schema
from chatapi.errors.base import AppError, Defect
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.domains import ConversationNotFound
from chatapi.errors.requests import Invalid, RateLimited
from chatapi.limits.limiter import Limiter
from chatapi.mcp.transport import Transport

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = ServerRequestContext[Any, Request]

PAGE = 100  # conversations in a list; the bound of a REST page
# Tools change only with a roll-out; a client that learns of it five minutes later misses little.
TOOLS_TTL_MS = 300_000
CONVERSATION = re.compile(
    r"chatapi://conversations/(?P<id>\d{1,19})(\?cursor=(?P<cursor>[\w=-]{1,500}))?", re.ASCII
)
TEMPLATE = "chatapi://conversations/{conversation_id}{?cursor}"
# Up to 2025-11-25; since then an unknown resource is an invalid parameter like any other.
RESOURCE_NOT_FOUND = -32002


class Offer:
    """The handlers of the protocol's requests. Without `shows_conversations` only the tasks are offered."""

    def __init__(
        self, database: Database, schema: Schema, limiter: Limiter, *, shows_conversations: bool
    ) -> None:
        self._database = database
        self._schema = schema
        self._limiter = limiter
        self._shows_conversations = shows_conversations
        tools = (*TASK_TOOLS, *CONVERSATION_TOOLS) if shows_conversations else TASK_TOOLS
        self._tools = {tool.name: tool for tool in tools}
        self._listed = [described(tool) for tool in tools]

    async def list_tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=self._listed)

    def input_schema(self, name: str) -> dict[str, Any] | None:
        return next((tool.input_schema for tool in self._listed if tool.name == name), None)

    async def call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """A mistake in the call is the tool's error, which the model reads; a failure of the service is not."""
        if (tool := self._tools.get(params.name)) is None:
            raise MCPError(types.INVALID_PARAMS, "There is no tool of this name.")
        user_id = user_of(context)
        await self._count(tool, user_id)
        recover = None if tool.read_only else unknown_outcome
        outcome = await call_tool(
            tool,
            user_id,
            params.arguments or {},
            lambda work: self._run(user_id, work, recover, reads_only=tool.read_only),
        )
        if isinstance(outcome.error, str):
            return types.CallToolResult(content=[types.TextContent(text=outcome.error)], is_error=True)
        text = msgspec.json.encode(outcome.result).decode()
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=outcome.result)

    async def list_resources(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """The user's conversations, pinned ones first, then newest activity first."""
        if not self._shows_conversations:
            return types.ListResourcesResult(resources=[])
        user_id = user_of(context)
        cursor = params.cursor if params else None
        page = await self._run(
            user_id,
            lambda session: ConversationService(session).page(user_id, limit=PAGE, cursor=cursor),
            reads_only=True,
        )
        return types.ListResourcesResult(
            resources=[resource(each) for each in page.items], next_cursor=page.next_cursor
        )

    async def list_templates(
        self, _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        if not self._shows_conversations:
            return types.ListResourceTemplatesResult(resource_templates=[])
        template = types.ResourceTemplate(
            name="conversation",
            title="A conversation",
            description="One of the user's conversations with its newest messages; "
            "next_cursor, given as cursor, leads to those before them.",
            uri_template=TEMPLATE,
            mime_type="application/json",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        match = CONVERSATION.fullmatch(params.uri)
        if match is None or not 0 < int(match["id"]) <= MAX_ID or not self._shows_conversations:
            raise not_found(context, params.uri)
        user_id, wanted = user_of(context), Read(conversation_id=int(match["id"]), cursor=match["cursor"])
        work = partial(read, user_id=user_id, call=wanted)
        try:
            contents = msgspec.json.encode(await self._run(user_id, work, reads_only=True)).decode()
        except ConversationNotFound:
            raise not_found(context, params.uri) from None
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=params.uri, mime_type="application/json", text=contents)]
        )

    async def list_prompts(
        self, _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        """An empty list: clients ask anyway, and would show an error to their users."""
        return types.ListPromptsResult(prompts=[])

    async def get_prompt(self, _: Context, __: types.GetPromptRequestParams) -> types.GetPromptResult:
        raise MCPError(types.INVALID_PARAMS, "There is no prompt of this name.")

    async def _count(self, tool: Tool[Any], user_id: str) -> None:
        """Count a call of a tool with a limit of its own; raises `MCPError` for one too many."""
        if tool.limit is not None:
            try:
                await self._limiter.hit(tool.limit, user_id)
            except RateLimited as error:
                raise service_error(error) from error

    async def _run(
        self,
        user_id: str,
        work: Work[T],
        recover: Work[T | None] | None = None,
        *,
        reads_only: bool = False,
    ) -> T:
        """Run a short transaction. Raises `MCPError`, without reasons, for failures that the caller cannot correct.

        (Older clients would get the text of an error that the SDK does not know.)
        """
        try:
            await self._schema.ensure_current()
            if reads_only:
                return await self._database.read(user_id, work)
            return await self._database.run(user_id, work, recover)
        except ConversationNotFound:
            raise
        except Invalid as error:
            raise MCPError(types.INVALID_PARAMS, error.detail) from error
        except AppError as error:
            raise service_error(error) from error
        except Exception as error:
            if is_transient(error):
                raise service_error(unavailable(error)) from error
            log.exception("A defect behind MCP")
            raise service_error(Defect("The service failed.")) from error


def user_of(context: Context) -> str:
    """The token's user, which `BearerAuthentication` put into the scope of the HTTP request."""
    assert context.request is not None  # noqa: S101 - over HTTP there always is one
    identity: Identity = context.request.scope["user"]
    return identity.user_id


def described(tool: Tool[Any]) -> types.Tool:
    """The registry's entry in the protocol's form."""
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.spec.parameters,
        output_schema=object_schema(tool.result),
        annotations=types.ToolAnnotations(
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=False,
        ),
    )


def resource(conversation: Conversation) -> types.Resource:
    return types.Resource(
        uri=f"chatapi://conversations/{conversation.id}",
        name=f"conversation-{conversation.id}",
        title=conversation.title or f"Conversation {conversation.id}",
        mime_type="application/json",
        annotations=types.Annotations(last_modified=conversation.updated_at.isoformat()),
    )


async def unknown_outcome(_: AsyncSession) -> NoReturn:
    """A COMMIT was cut off. No key finds the call's effect, and it must not run twice, so the user has to look."""
    raise DatabaseUnavailable(
        "The connection was lost at the end of the call: look whether it took effect.", retry_after=None
    )


def not_found(context: Context, uri: str) -> MCPError:
    code = types.INVALID_PARAMS if context.protocol_version >= "2026-07-28" else RESOURCE_NOT_FOUND
    return MCPError(code, "There is no such resource of yours.", {"uri": uri})


def service_error(error: AppError) -> MCPError:
    """An error of the service, with the content of its problem document over REST."""
    document = error.document
    data = {name: document[name] for name in ("type", "title", "retry_after") if name in document}
    return MCPError(types.INTERNAL_ERROR, error.detail, data)


def transport_of(offer: Offer, *, hosts: Sequence[str] | None, max_body_bytes: int) -> Transport:
    """The server side of the protocol, over HTTP."""
    server: Server[Any] = Server(
        "chatapi",
        title="chatapi",
        version=__version__,
        instructions="The tasks of the signed-in user, and their conversations with their assistant.",
        on_list_tools=offer.list_tools,
        on_call_tool=offer.call_tool,
        on_list_resources=offer.list_resources,
        on_list_resource_templates=offer.list_templates,
        on_read_resource=offer.read_resource,
        on_list_prompts=offer.list_prompts,
        on_get_prompt=offer.get_prompt,
        get_tool_input_schema=offer.input_schema,
        cache_hints={
            "tools/list": CacheHint(ttl_ms=TOOLS_TTL_MS, scope="public"),
            "prompts/list": CacheHint(ttl_ms=TOOLS_TTL_MS, scope="public"),
            "resources/templates/list": CacheHint(ttl_ms=TOOLS_TTL_MS, scope="public"),
        },
    )
    logging.getLogger("mcp.server.streamable_http").addFilter(is_news)
    return Transport(server, hosts=hosts, max_body_bytes=max_body_bytes)


def is_news(record: logging.LogRecord) -> bool:
    """Whether to log a record of the SDK: all but the traceback for a client that hung up while sending its request."""
    return record.exc_info is None or not isinstance(record.exc_info[1], ClientDisconnect)
