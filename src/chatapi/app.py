"""The one composition root: everything is made here, and nothing at import."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.types import Middleware

from chatapi import __version__
from chatapi.account.controllers import AccountController
from chatapi.agent.loading import load_agent
from chatapi.agent.ports import Agent
from chatapi.agent.tools import TASK_TOOLS, no_external_tools
from chatapi.auth.guards import all_of, ids_can_exist, owns_path
from chatapi.auth.middleware import BearerAuthentication
from chatapi.auth.tokens import TokenVerifier
from chatapi.conversations.controllers import ConversationController
from chatapi.db.database import Database
from chatapi.db.schema import Schema
from chatapi.errors.database import DatabaseUnavailable
from chatapi.limits.limiter import Limiter
from chatapi.limits.messages import MessageLimit
from chatapi.limits.middleware import RefusedTokens, within_limits
from chatapi.logs import access_log, configure_logging
from chatapi.mcp.config import external_tools
from chatapi.mcp.endpoint import MCPEndpoint, discovery_route, mcp_router, say_how_clients_sign_in
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.tasks.controllers import TaskController
from chatapi.tracing import tracing_from
from chatapi.turns.controllers import ChatController, TurnController
from chatapi.turns.lease import Lease
from chatapi.turns.measures import Telemetry
from chatapi.turns.service import ChatService
from chatapi.turns.store import turn_store
from chatapi.turns.supervisor import Supervisor
from chatapi.web.auditing import audit_act
from chatapi.web.browsers import cors_config, protect
from chatapi.web.dependencies import provide_session
from chatapi.web.docs import openapi_config, swagger_assets, tell_the_truth
from chatapi.web.health import HealthController
from chatapi.web.me import me
from chatapi.web.observability import metrics_route, observe
from chatapi.web.problems import handle_exception
from chatapi.web.requests import (
    MAX_BODY_BYTES,
    JSONRequest,
    add_headers,
    answer_head,
    bind_request,
    body_is_json,
    name_user,
    schema_is_current,
)
from chatapi.web.shutdown import told_to_stop

OVERTIME_SECONDS = 60.0  # beyond CHAT_TIMEOUT, for a turn whose end the database keeps waiting
DRAIN_SECONDS = 15.0  # for turns under way at SIGTERM; an orchestrator kills after 30


def create_app(settings: Settings | None = None, agent: Agent | None = None) -> Litestar:
    """The service. Settings come from the environment and the agent from the settings unless given."""
    settings = settings or Settings.from_env()
    configure_logging(settings.log_level, settings.log_format)
    telemetry = Telemetry(Metrics(__version__, settings.chatapi_build), tracing_from())
    agent = agent or load_agent(settings)
    limiter = Limiter(settings, telemetry.metrics)
    database = Database(settings, telemetry.metrics, telemetry.tracing)
    schema = Schema(database, settings)
    store = turn_store(database)
    lease = Lease(database, turn_seconds=settings.chat_timeout + OVERTIME_SECONDS)
    supervisor = Supervisor(store)
    verifier = TokenVerifier(settings, telemetry.metrics)
    external = external_tools(settings)
    chat = ChatService(
        store,
        supervisor,
        lease,
        agent,
        TASK_TOOLS,
        external or no_external_tools,
        MessageLimit(limiter),
        settings,
        telemetry,
    )
    mcp = MCPEndpoint(database, schema, TASK_TOOLS, settings, max_body_bytes=MAX_BODY_BYTES)

    def provide_chat() -> ChatService:
        return chat

    async def release() -> None:
        with suppress(DatabaseUnavailable):  # then the lease runs out
            await lease.release()

    @asynccontextmanager
    async def run(_: Litestar) -> AsyncIterator[None]:
        draining: list[asyncio.Task[None]] = []
        async with AsyncExitStack() as closing:  # from the last to the first, whatever becomes of any of them
            closing.push_async_callback(asyncio.to_thread, telemetry.tracing.close)
            for resource in (database, limiter, verifier):
                closing.push_async_callback(resource.close)
            closing.push_async_callback(release)
            for loop in (lease.run, supervisor.watch, supervisor.flush, supervisor.live.run):
                closing.push_async_callback(stop, asyncio.create_task(loop()))
            try:
                await schema.migrate()
            except Exception:  # noqa: BLE001 - whatever it is, the service starts, says 503 and why, and tries again
                closing.push_async_callback(stop, asyncio.create_task(schema.migrate_when_possible()))
            if external is not None:
                closing.push_async_callback(external.close)
                await external.start()
            closing.push_async_callback(mcp.close)
            say_how_clients_sign_in(settings)
            if isinstance(agent, AbstractAsyncContextManager):
                await closing.enter_async_context(agent)
            closing.push_async_callback(supervisor.drain, 0)
            with told_to_stop(lambda: draining.append(asyncio.create_task(supervisor.drain(DRAIN_SECONDS)))):
                yield
            await asyncio.gather(*draining)  # turns go on when the last stream of one has been closed

    identified: list[Middleware] = [
        RefusedTokens(),
        DefineMiddleware(BearerAuthentication, verifier=verifier, demo_mode=settings.demo_mode),
    ]
    of_somebody = (name_user, within_limits, body_is_json, schema_is_current)
    token_scoped = Router("/", guards=[all_of(*of_somebody)], route_handlers=[me, ChatController])
    user_scoped = Router(
        "/{user_id:str}",
        guards=[all_of(*of_somebody, owns_path, ids_can_exist)],
        route_handlers=[
            ChatController,
            TurnController,
            ConversationController,
            TaskController,
            AccountController,
        ],
    )
    api = Router(
        "/api",
        middleware=identified,
        security=[{"bearer": []}],
        route_handlers=[token_scoped, user_scoped],
    )
    app = Litestar(
        route_handlers=[
            api,
            mcp_router(mcp, middleware=identified, guards=[all_of(name_user, within_limits)]),
            discovery_route(settings),
            HealthController,
            *([metrics_route(telemetry.metrics, settings)] if settings.metrics == "on" else []),
            swagger_assets(),
        ],
        plugins=[SQLAlchemyPlugin(database.config)],
        dependencies={
            "db_session": Provide(provide_session),
            "chat": Provide(provide_chat, sync_to_thread=False),
        },
        exception_handlers={HTTPException: handle_exception, Exception: handle_exception},
        before_send=[add_headers, protect, audit_act],
        cors_config=cors_config(settings),
        lifespan=[run],
        logging_config=None,
        openapi_config=openapi_config(),
        request_class=JSONRequest,
        request_max_body_size=MAX_BODY_BYTES,
        state=State({"database": database, "schema": schema, "limiter": limiter, "settings": settings}),
    )
    access = access_log(settings.log_level, settings.log_format)
    app.asgi_handler = bind_request(answer_head(observe(app.asgi_handler, telemetry, access)))
    tell_the_truth(app)
    return app


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
