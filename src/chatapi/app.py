"""The one composition root: everything is made here, and nothing at import."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any

from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.logging import LoggingConfig
from litestar.middleware import DefineMiddleware
from litestar.types import Middleware

from chatapi.account.controllers import AccountController
from chatapi.agent.loading import load_agent
from chatapi.agent.ports import Agent
from chatapi.agent.tools import TASK_TOOLS, no_external_tools
from chatapi.auth.guards import all_of, ids_can_exist, owns_path
from chatapi.auth.middleware import BearerAuthentication
from chatapi.auth.tokens import TokenVerifier
from chatapi.chat.controllers import ChatController, TurnController
from chatapi.chat.service import ChatService
from chatapi.chat.worker import Worker
from chatapi.conversations.controllers import ConversationController
from chatapi.db.config import Database, database_config
from chatapi.db.schema import Schema
from chatapi.errors import DatabaseUnavailable
from chatapi.mcp.config import external_tools
from chatapi.mcp.endpoint import MCPEndpoint, mcp_router, metadata_route
from chatapi.settings import Settings
from chatapi.tasks.controllers import TaskController
from chatapi.web.auditing import audit_act
from chatapi.web.browsers import cors_config, protect
from chatapi.web.dependencies import provide_admit, provide_chat, provide_session
from chatapi.web.docs import openapi_config, swagger_assets, tell_the_truth
from chatapi.web.health import HealthController
from chatapi.web.limits import Limiter, RefusedTokens, within_limits
from chatapi.web.me import me
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

# A line of JSON each, whatever LOG_LEVEL says.
AUDIT_LOGGING: dict[str, Any] = {
    "formatters": {"audit": {"format": "%(message)s"}},
    "handlers": {
        "audit": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "audit"}
    },
    "loggers": {"chatapi.audit": {"level": "INFO", "handlers": ["audit"], "propagate": False}},
}
DRAIN_SECONDS = 15.0  # for turns under way at SIGTERM; an orchestrator kills after 30


def create_app(settings: Settings | None = None, agent: Agent | None = None) -> Litestar:
    """The service. Settings come from the environment and the agent from the settings unless given."""
    settings = settings or Settings.from_env()
    agent = agent or load_agent(settings)
    config = database_config(settings)
    limiter = Limiter(settings)
    database = Database(config)
    schema = Schema(database, settings)
    worker = Worker(database)
    verifier = TokenVerifier(settings)
    external = external_tools(settings)
    chat = ChatService(database, agent, TASK_TOOLS, worker, settings, external or no_external_tools)
    mcp = MCPEndpoint(database, schema, TASK_TOOLS, settings, max_body_bytes=MAX_BODY_BYTES)

    @asynccontextmanager
    async def run(_: Litestar) -> AsyncIterator[None]:
        background = [asyncio.create_task(worker.run()), asyncio.create_task(chat.watch())]
        try:
            await schema.migrate()
        except Exception:  # noqa: BLE001 - whatever it is, the service starts, says 503 and why, and tries again
            background.append(asyncio.create_task(schema.migrate_when_possible()))
        if external is not None:
            await external.start()
        async with agent if isinstance(agent, AbstractAsyncContextManager) else nullcontext():
            with told_to_stop(lambda: background.append(asyncio.create_task(chat.drain(DRAIN_SECONDS)))):
                yield
            await chat.drain(0)
        await mcp.close()
        if external is not None:
            await external.close()
        for task in background:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        with suppress(DatabaseUnavailable):
            await worker.release()
        await verifier.close()
        await limiter.close()
        await database.close()

    identified: list[Middleware] = [
        RefusedTokens(),
        DefineMiddleware(BearerAuthentication, verifier=verifier, demo_mode=settings.demo_mode),
    ]
    user_scoped = Router(
        "/{user_id:str}",
        guards=[all_of(owns_path, ids_can_exist)],
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
        guards=[all_of(name_user, within_limits, body_is_json, schema_is_current)],
        middleware=identified,
        security=[{"bearer": []}],
        route_handlers=[me, ChatController, user_scoped],
    )
    app = Litestar(
        route_handlers=[
            api,
            mcp_router(mcp, middleware=identified, guards=[all_of(name_user, within_limits)]),
            metadata_route(settings),
            HealthController,
            swagger_assets(),
        ],
        plugins=[SQLAlchemyPlugin(config)],
        dependencies={
            "db_session": Provide(provide_session),
            "chat": Provide(provide_chat, sync_to_thread=False),
            "admit": Provide(provide_admit, sync_to_thread=False),
        },
        exception_handlers={HTTPException: handle_exception, Exception: handle_exception},
        before_send=[add_headers, protect, audit_act],
        cors_config=cors_config(settings),
        lifespan=[run],
        logging_config=LoggingConfig(
            root={"level": settings.log_level, "handlers": ["queue_listener"]},
            **AUDIT_LOGGING,
            log_exceptions="never",
        ),
        openapi_config=openapi_config(),
        request_class=JSONRequest,
        request_max_body_size=MAX_BODY_BYTES,
        state=State(
            {"database": database, "schema": schema, "chat": chat, "limiter": limiter, "settings": settings}
        ),
    )
    app.asgi_handler = bind_request(answer_head(app.asgi_handler))
    tell_the_truth(app)
    return app
