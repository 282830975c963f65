"""The app: its routes, with the middleware and guards before them."""

from collections.abc import Sequence
from functools import partial

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.types import ControllerRouterHandler, Middleware

from chatapi.account.controllers import AccountController
from chatapi.agent.ports import Agent
from chatapi.api_keys.controllers import APIKeyController
from chatapi.auth.guards import AsyncGuard, all_of, ids_can_exist, needs_no_user, owns_path
from chatapi.auth.middleware import BearerAuthentication
from chatapi.conversations.controllers import (
    ConversationController,
    FeedbackController,
    SearchController,
)
from chatapi.files.controllers import FileController
from chatapi.files.service import FileService
from chatapi.leaving_out import left_out
from chatapi.limits.middleware import RefusedTokens, count_errors, within_limits
from chatapi.logs import access_log, configure_logging
from chatapi.mcp.endpoint import discovery_route, mcp_router
from chatapi.openai_api.errors import PREFIX, error_response
from chatapi.openai_api.response_service import ResponseService
from chatapi.openai_api.routes import announce_limits, openai_router
from chatapi.patience import Patience
from chatapi.playground.controllers import playground_routes
from chatapi.routing import UncopiedRouter
from chatapi.services import Services, lifespan
from chatapi.settings import Settings
from chatapi.tasks.controllers import TaskController
from chatapi.turns.controllers import ChatController, CompactionController, TurnController
from chatapi.turns.service import ChatService
from chatapi.turns.stateless import Stateless
from chatapi.turns.summaries import Summaries
from chatapi.usage.controllers import UsageController
from chatapi.web.auditing import audit_act
from chatapi.web.browsers import cors_config, protect
from chatapi.web.dependencies import provide_session
from chatapi.web.docs import openapi_config, swagger_assets
from chatapi.web.health import HealthController
from chatapi.web.me import me
from chatapi.web.observability import metrics_route, observe
from chatapi.web.problems import exception_handler
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


def create_app(
    settings: Settings | None = None, agent: Agent | None = None, patience: Patience | None = None
) -> Litestar:
    """The service. Settings come from the environment, and the agent from the settings, unless given."""
    settings = settings or Settings.from_env()
    configure_logging(settings.log_level, settings.log_format)
    return app_of(Services.of(settings, patience or Patience(), agent))


def app_of(services: Services) -> Litestar:
    """Make the app that serves with these services. It starts and stops them, too."""
    settings = services.settings
    handle_exception = exception_handler({PREFIX: error_response})

    def provide_chat() -> ChatService:
        return services.chat

    def provide_stateless() -> Stateless:
        return services.stateless

    def provide_files() -> FileService:
        return services.files

    def provide_summaries() -> Summaries:
        return services.summaries

    with left_out():  # for pydantic and attrs Litestar would add plugins
        app = Litestar(
            route_handlers=routes(services),
            dependencies={
                "db_session": Provide(provide_session),
                "chat": Provide(provide_chat, sync_to_thread=False),
                "files": Provide(provide_files, sync_to_thread=False),
                "stateless": Provide(provide_stateless, sync_to_thread=False),
                "summaries": Provide(provide_summaries, sync_to_thread=False),
            },
            exception_handlers={HTTPException: handle_exception, Exception: handle_exception},
            after_exception=[count_errors(services.limiter)],
            before_send=[announce_limits, add_headers, protect, audit_act],
            cors_config=cors_config(settings),
            lifespan=[lambda _: lifespan(services)],
            logging_config=None,
            openapi_config=openapi_config(lambda: app),
            request_class=JSONRequest,
            request_max_body_size=MAX_BODY_BYTES,
            state=State(
                {
                    "database": services.database,
                    "schema": services.schema,
                    "limiter": services.limiter,
                    "patience": services.patience,
                    "metrics": services.telemetry.metrics,
                    "settings": settings,
                }
            ),
        )
    access = access_log(settings.log_level, settings.log_format)
    app.asgi_handler = bind_request(answer_head(observe(app.asgi_handler, services.telemetry, access)))
    return app


def routes(services: Services) -> Sequence[ControllerRouterHandler]:
    """All routes. Those below /api belong to a user, who is named by the path and the token, or by the token alone."""
    settings = services.settings
    identified: list[Middleware] = [
        RefusedTokens(services.limiter),
        DefineMiddleware(
            BearerAuthentication,
            verifier=services.verifier,
            keys=services.api_keys,
            demo_mode=settings.demo_mode,
        ),
    ]
    of_somebody = (name_user, within_limits, body_is_json, schema_is_current)
    token_scoped = UncopiedRouter("/", guards=[all_of(*of_somebody)], route_handlers=[me, ChatController])
    user_scoped = UncopiedRouter(
        "/{user_id:str}",
        guards=[all_of(*of_somebody, owns_path, needs_no_user, ids_can_exist)],
        route_handlers=[
            ChatController,
            TurnController,
            ConversationController,
            CompactionController,
            FeedbackController,
            SearchController,
            TaskController,
            AccountController,
            APIKeyController,
            UsageController,
            # The service bounds an upload itself, by FILE_MAX_BYTES, and with an error of its own.
            UncopiedRouter("/", request_max_body_size=None, route_handlers=[FileController]),
        ],
    )
    api = UncopiedRouter(
        "/api",
        middleware=identified,
        security=[{"bearer": []}],
        route_handlers=[token_scoped, user_scoped],
    )
    return [
        api,
        openai_routes(services, identified, all_of(*of_somebody)),
        mcp_router(services.mcp, middleware=identified, guards=[all_of(name_user, within_limits)]),
        discovery_route(settings),
        HealthController,
        *([metrics_route(services.telemetry.metrics, settings)] if settings.metrics == "on" else []),
        swagger_assets(),
        *(playground(services) if settings.serves_playground else []),
    ]


def playground(services: Services) -> Sequence[ControllerRouterHandler]:
    return playground_routes(services.settings, services.verifier, services.database, services.schema)


def openai_routes(services: Services, identified: list[Middleware], guard: AsyncGuard) -> Router:
    """Those below /v1 belong to the token's user."""
    responses = partial(
        ResponseService,
        services.chat,
        services.stateless,
        services.files,
        services.database,
        services.limiter,
    )
    return openai_router(services.agent, responses, middleware=identified, guards=[guard])
