"""Serves MCP at `/mcp` behind the same tokens as all else, and tells clients which tokens they need."""

import asyncio
import importlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, Router, asgi, get, post
from litestar.enums import ScopeType
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import Guard, Middleware, Receive, Scope, Send

from chatapi.db.database import Database
from chatapi.db.schema import Schema
from chatapi.errors.auth import Unauthenticated
from chatapi.errors.requests import NotFound
from chatapi.limits.limiter import Limiter
from chatapi.routing import UncopiedRouter
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.mcp.transport import Transport

log = logging.getLogger(__name__)

PATH = "/mcp"
METADATA_PATH = f"/.well-known/oauth-protected-resource{PATH}"  # RFC 9728, section 3.1


class MCPEndpoint:
    """The ASGI app at `/mcp`.

    The first request that needs the SDK imports it, in a thread: the import would add more than a second to the start
    of every process, and most services never get an MCP request.
    """

    def __init__(
        self,
        database: Database,
        schema: Schema,
        limiter: Limiter,
        settings: Settings,
        *,
        max_body_bytes: int,
    ) -> None:
        self._database = database
        self._schema = schema
        self._limiter = limiter
        self._shows_conversations = settings.mcp_conversations == "on"
        self._hosts = settings.mcp_hosts
        self._max_body_bytes = max_body_bytes
        self._transport: Transport | None = None
        self._starting = asyncio.Lock()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only POST: without sessions there is no stream to GET and nothing to DELETE (405, as the protocol has it)."""
        if scope["type"] != ScopeType.HTTP or scope["method"] != "POST":
            raise MethodNotAllowedException(headers={"allow": "POST"})
        transport = self._transport or await self._start()
        # RFC 9110, section 5.5: white space around a value is not part of it; httptools keeps trailing white space.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        await transport.handle_request(scope, receive, send)  # type: ignore[arg-type] # ASGI, in Starlette's words

    async def close(self) -> None:
        """Stop the SDK at shutdown, when no request is left."""
        self._stop.set()
        if self._running is not None:
            await self._running

    async def _start(self) -> "Transport":
        async with self._starting:
            if self._transport is None:
                server = await asyncio.to_thread(importlib.import_module, "chatapi.mcp.server")
                transport: Transport = server.transport_of(
                    server.Offer(
                        self._database,
                        self._schema,
                        self._limiter,
                        shows_conversations=self._shows_conversations,
                    ),
                    hosts=self._hosts,
                    max_body_bytes=self._max_body_bytes,
                )
                started = asyncio.Event()
                self._running = asyncio.create_task(self._run(transport, started))
                await started.wait()
                self._transport = transport
            return self._transport

    async def _run(self, transport: "Transport", started: asyncio.Event) -> None:
        """Runs in a separate task, because a task group must end in the task that began it."""
        async with transport.run():
            started.set()
            await self._stop.wait()


def mcp_router(endpoint: MCPEndpoint, *, middleware: Sequence[Middleware], guards: Sequence[Guard]) -> Router:
    """`/mcp` as one exact path: Litestar matches a mount by its prefix, which would include `/mcpfoo`."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint(scope, receive, send)

    handler: ASGIRouteHandler = asgi(copy_scope=True)(handle)
    return UncopiedRouter(
        PATH,
        middleware=middleware,
        guards=guards,
        exception_handlers={Unauthenticated: ask_for_token},
        route_handlers=[handler],
    )


def ask_for_token(request: Request[Any, Any, Any], error: Unauthenticated) -> Response[Any]:
    """The usual 401, with the address of the metadata (RFC 9728, section 5.1) if there is any."""
    handler = request.app.exception_handlers[Exception]
    response: Response[Any] = handler(request, error)
    settings: Settings = request.app.state.settings
    if settings.issuer_addresses:
        scheme, _, parameters = response.headers["WWW-Authenticate"].partition(" ")
        metadata = f'resource_metadata="{base_url(request)}{METADATA_PATH}"'
        response.headers["WWW-Authenticate"] = f"{scheme} " + ", ".join(filter(None, [metadata, parameters]))
    return response


def say_how_clients_sign_in(settings: Settings) -> None:
    """Log, at the start of the service, how MCP clients without a token can sign in."""
    if settings.issuer_addresses:
        log.info(
            "MCP clients without a token are sent to %s to sign in", ", ".join(settings.issuer_addresses)
        )
        return
    log.info(
        "MCP clients cannot sign in by themselves: JWT_ISSUER or BETTER_AUTH_URL names no authorization server by its "
        "address. They need a token in their configuration"
    )


def discovery_route(settings: Settings) -> HTTPRouteHandler:
    """The route that tells a client without a token which token it needs.

    It serves protected resource metadata (RFC 9728, section 2) if an authorization server is known. MCP requires the
    metadata to name one; clients take metadata without one to mean that the resource is its own authorization server.
    So without one there is no metadata. Clients then fall back to this origin (2025-03-26, "Fallbacks"), and show the
    answer of `/register`.
    """
    issuers = settings.issuer_addresses
    if not issuers:
        return register

    @get(METADATA_PATH, include_in_schema=False, media_type=MediaType.JSON, sync_to_thread=False)
    def metadata(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """It is public: it says only what any 401 would."""
        return {
            "resource": base_url(request) + PATH,
            "resource_name": "chatapi",
            "bearer_methods_supported": ["header"],
            "authorization_servers": issuers,
        }

    return metadata


@post("/register", include_in_schema=False, sync_to_thread=False)
def register() -> None:
    """A refusal that also has the members of RFC 7591, section 3.2.2."""
    reason = "No clients are registered here: put a token into the client's configuration, as Authorization: Bearer …"
    raise NotFound(reason, error="registration_not_supported", error_description=reason)


def base_url(request: Request[Any, Any, Any]) -> str:
    return str(request.base_url).rstrip("/")
