"""The chat routes: the user from the path, or from the token alone. One service behind them."""

from litestar import Controller, Request, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from chatapi.auth.tokens import Identity
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.chat.service import Admit, ChatService
from chatapi.openapi import problems

CHAT_ERRORS = problems(404, 409, 413, 415, 422, 502, 504)


def operation_id(_: HTTPRouteHandler, __: Method, path: list[str | PathParameterDefinition]) -> str:
    """The two routes of one handler are two operations."""
    return "chat" if any(isinstance(part, PathParameterDefinition) for part in path) else "chatAsTokenUser"


class ChatController(Controller):
    path = "/chat"
    tags = ("Chat",)

    @post(
        operation_id=operation_id,
        summary="Send a message",
        status_code=200,
        responses=CHAT_ERRORS,
        limits_itself=True,
    )
    async def chat(
        self,
        request: "Request[Identity, None, State]",
        chat: NamedDependency[ChatService],
        admit: NamedDependency[Admit],
        data: JSONBody[ChatRequest],
    ) -> ChatAnswer:
        """Begins a conversation, or continues the one that is named, and waits for the answer.

        The message is stored before the model is asked, and kept whatever becomes of the answer.
        """
        await admit(request.user.user_id)
        return await chat.answer(request.user.user_id, data)
