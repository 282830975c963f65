"""The routes below `/v1`: OpenAI's API, for its clients. The user is the token's."""

import re
from collections.abc import Callable, Sequence

from litestar import Router
from litestar.di import Provide
from litestar.types import Guard, Message, Middleware, Scope

from chatapi.agent.ports import Agent
from chatapi.context import current_request
from chatapi.openai_api.chat_completions import ChatCompletionController
from chatapi.openai_api.conversations import ConversationsController
from chatapi.openai_api.errors import PREFIX
from chatapi.openai_api.models import ModelController, Models
from chatapi.openai_api.response_service import ResponseService
from chatapi.openai_api.responses import ResponseController
from chatapi.routing import UncopiedRouter

POLICY = re.compile(r'"\w+";q=(\d+)')
LEFT = re.compile(r'"\w+";r=(\d+);t=(\d+)')


def openai_router(
    agent: Agent,
    responses_with: Callable[[Models], ResponseService],
    *,
    middleware: Sequence[Middleware],
    guards: Sequence[Guard],
) -> Router:
    models = Models(agent)
    responses = responses_with(models)

    def provide_models() -> Models:
        return models

    def provide_responses() -> ResponseService:
        return responses

    return UncopiedRouter(
        PREFIX,
        middleware=middleware,
        guards=guards,
        dependencies={
            "models": Provide(provide_models, sync_to_thread=False),
            "responses": Provide(provide_responses, sync_to_thread=False),
        },
        security=[{"bearer": []}],
        route_handlers=[
            ModelController,
            ChatCompletionController,
            ResponseController,
            ConversationsController,
        ],
    )


async def announce_limits(message: Message, scope: Scope) -> None:
    """Say what is left of the rate limit in OpenAI's headers, too. A before-send hook."""
    request = current_request.get()
    if request is None or message["type"] != "http.response.start" or not is_below(scope["path"]):
        return
    policy = POLICY.match(request.headers.get("RateLimit-Policy", ""))
    left = LEFT.match(request.headers.get("RateLimit", ""))
    if policy and left:
        request.headers |= {
            "x-ratelimit-limit-requests": policy[1],
            "x-ratelimit-remaining-requests": left[1],
            "x-ratelimit-reset-requests": f"{left[2]}s",
        }


def is_below(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")
