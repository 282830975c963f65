"""The chat routes: the user from the path, or from the token alone. One service behind them."""

from typing import Annotated

from litestar import Controller, Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.response.base import ASGIResponse
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from chatapi.auth.tokens import Identity
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.chat.service import Admit, ChatService
from chatapi.openapi import problems

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Sent again with the same request, it gets the first answer again (visible ASCII).",
    ),
]


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
        responses=problems(404, 409, 413, 415, 422, 502, 504),
        limits_itself=True,
    )
    async def chat(
        self,
        request: "Request[Identity, None, State]",
        chat: NamedDependency[ChatService],
        admit: NamedDependency[Admit],
        data: JSONBody[ChatRequest],
        idempotency_key: IdempotencyKey = None,
    ) -> Response[ChatAnswer]:
        """Begins a conversation, or continues the one that is named, and waits for the answer.

        The message is stored before the model is asked, and kept whatever becomes of the answer.
        """
        answered = await chat.answer(request.user.user_id, data, idempotency_key, admit)
        return Response(answered.answer, headers={"Idempotent-Replayed": "true"} if answered.replayed else {})


class TurnController(Controller):
    path = "/turns"
    tags = ("Chat",)

    @post(
        "/{turn_id:int}/cancel",
        operation_id="cancelTurn",
        summary="Cancel a turn",
        status_code=202,
        responses=problems(404, 409),
        act="turn.cancelled",
    )
    async def cancel(
        self, user_id: FromPath[str], turn_id: FromPath[int], chat: NamedDependency[ChatService]
    ) -> ASGIResponse:
        """Ends it wherever it runs, within a second. What it has said and done so far is kept."""
        await chat.cancel(user_id, turn_id)
        return ASGIResponse(status_code=202)
