"""The chat routes, with the user in the path or taken from the token; both use one service."""

from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.datastructures.headers import Accept
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.response.base import ASGIResponse
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from chatapi.auth.tokens import Identity
from chatapi.db.paging import Id, Page, decode_cursor, page_of
from chatapi.openapi import (
    EVENT_STREAM,
    PageCursor,
    PageSize,
    StreamOperation,
    StreamOrJSONOperation,
    problems,
)
from chatapi.turns import ui_stream
from chatapi.turns.event_stream import EventStream
from chatapi.turns.log import TurnLog
from chatapi.turns.schemas import (
    AnswerAnew,
    AnswersRequest,
    ChatAnswer,
    ChatRequest,
    Compaction,
    MessageRequest,
    RegenerateRequest,
    WaitingAnswer,
    WaitingTurn,
)
from chatapi.turns.service import ChatService
from chatapi.turns.summaries import Summaries

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
TurnId = Annotated[
    int | None, QueryParameter(ge=1, description="A turn of the conversation, instead of the active one")
]
NO_TURN = ResponseSpec(None, description="No turn is active.")
WAITS = ResponseSpec(
    WaitingAnswer, description="The turn waits for answers to `pending` calls.", generate_examples=False
)
ChatConnection = Request[Identity, None, State]


def operation_id(handler: HTTPRouteHandler, __: Method, path: list[str | PathParameterDefinition]) -> str:
    """Give each of a handler's two routes an operation id of its own."""
    name = {"chat": "chat", "resume": "resumeChat"}[handler.handler_name]
    of_user = any(isinstance(part, PathParameterDefinition) and part.name == "user_id" for part in path)
    return name if of_user else f"{name}AsTokenUser"


class ChatController(Controller):
    path = "/chat"
    tags = ("Chat",)

    @post(
        operation_id=operation_id,
        summary="Send a message",
        status_code=200,
        responses={202: WAITS, **problems(404, 409, 413, 415, 422, 502, 504)},
        operation_class=StreamOrJSONOperation,
        limits_itself=True,
    )
    async def chat(
        self,
        request: ChatConnection,
        chat: NamedDependency[ChatService],
        data: JSONBody[MessageRequest],
        idempotency_key: IdempotencyKey = None,
    ) -> Response[ChatAnswer | WaitingAnswer]:
        """Begins a conversation, or continues the one that is named, and waits for the answer.

        With `Accept: text/event-stream` the turn is streamed as it happens, in the AI SDK's UI message stream. The
        message is stored before the model is asked, and kept whatever becomes of the answer. `when_busy` says what becomes
        of it while the conversation has a turn under way.
        """
        return await answered(request, chat, data.request, idempotency_key)

    @get(
        "/{conversation_id:int}/stream",
        operation_id=operation_id,
        summary="Resume a stream",
        responses={204: NO_TURN, **problems(404, 422)},
        operation_class=StreamOperation,
    )
    async def resume(
        self,
        request: ChatConnection,
        chat: NamedDependency[ChatService],
        conversation_id: FromPath[int],
        turn_id: TurnId = None,
    ) -> Response[None]:
        """Streams the conversation's active turn from its beginning to its end, in whichever process it runs.

        With `turn_id`, streams that turn, also when it has ended.
        """
        log = await chat.resume(request.user.user_id, conversation_id, turn_id)
        return Response(None, status_code=204) if log is None else streamed(chat, log)


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
        """Ends the turn wherever it runs, within a second. What it has said and done so far is kept."""
        await chat.cancel(user_id, turn_id)
        return ASGIResponse(status_code=202)

    @delete(
        "/{turn_id:int}",
        operation_id="unqueueTurn",
        summary="Take a turn out of its queue",
        responses=problems(404, 409),
        act="turn.unqueued",
    )
    async def unqueue(
        self, user_id: FromPath[str], turn_id: FromPath[int], chat: NamedDependency[ChatService]
    ) -> None:
        """Its message is forgotten. A turn that has begun can be cancelled instead."""
        await chat.take_out(user_id, turn_id)

    @post(
        "/{turn_id:int}/regenerate",
        operation_id="regenerateTurn",
        summary="Answer the last turn anew",
        status_code=200,
        responses={202: WAITS, **problems(404, 409, 413, 415, 422, 502, 504)},
        operation_class=StreamOrJSONOperation,
        limits_itself=True,
    )
    async def regenerate(
        self,
        request: ChatConnection,
        turn_id: FromPath[int],
        chat: NamedDependency[ChatService],
        data: JSONBody[RegenerateRequest | None] = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[ChatAnswer | WaitingAnswer]:
        """Begins a new turn for the same message or an edited one; answers as `chat` does.

        The old answer is kept as an alternative. The effects of its tools stay.
        """
        anew = (data or RegenerateRequest()).request(turn_id)
        return await answered(request, chat, anew, idempotency_key)

    @get(operation_id="listTurns", summary="List turns that wait for answers", responses=problems(422))
    async def list_turns(
        self,
        user_id: FromPath[str],
        chat: NamedDependency[ChatService],
        status: FromQuery[Literal["waiting"]] = "waiting",  # noqa: ARG002 - the only list that there is
        limit: PageSize = 20,
        cursor: PageCursor = None,
    ) -> Page[WaitingTurn]:
        """Newest first, in all conversations."""
        turns = await chat.waiting(user_id, limit + 1, decode_cursor(cursor, Id))
        return page_of(turns, limit, lambda turn: turn, lambda turn: turn.turn_id)

    @post(
        "/{turn_id:int}/answers",
        operation_id="answerTurn",
        summary="Answer what a turn waits for",
        status_code=200,
        responses={202: WAITS, **problems(404, 409, 413, 415, 422, 502, 504)},
        operation_class=StreamOrJSONOperation,
    )
    async def answer(
        self,
        request: ChatConnection,
        turn_id: FromPath[int],
        chat: NamedDependency[ChatService],
        data: JSONBody[AnswersRequest],
        idempotency_key: IdempotencyKey = None,
    ) -> Response[ChatAnswer | WaitingAnswer]:
        """Goes on with the turn when all its pending calls have an answer; until then the rest of them is returned.

        An approved call is made once, whatever dies. With `Accept: text/event-stream` only what follows is streamed. The
        same answers again get the same response.
        """
        found = await chat.answer(request.user.user_id, turn_id, data, idempotency_key)
        if isinstance(found, WaitingAnswer):
            if not prefers_stream(request):
                return Response(found)
            return streamed(chat, TurnLog.of(found))
        if prefers_stream(request):
            return streamed(chat, found.log, after_wait=found.wait)
        return await whole(found.log)


class CompactionController(Controller):
    path = "/conversations/{conversation_id:int}/compact"
    tags = ("Conversations",)

    @post(
        operation_id="compactConversation",
        summary="Sum a conversation up",
        status_code=202,
        responses=problems(404, 409),
        limit="chat",
        act="conversation.compacted",
    )
    async def compact(
        self,
        user_id: FromPath[str],
        conversation_id: FromPath[int],
        summaries: NamedDependency[Summaries],
    ) -> Compaction:
        """Has the model write a summary of all but the last turn, in the background, which it is then shown in their place.

        No message is changed. While one is being made, the same is answered again. `summarized_until` of the conversation says
        when it is there; if the model fails, it is tried again later.
        """
        return await summaries.compact(user_id, conversation_id)


async def answered(
    request: ChatConnection, chat: ChatService, asked: ChatRequest | AnswerAnew, key: str | None
) -> Response[ChatAnswer | WaitingAnswer]:
    """Respond as the client prefers: with a stream, or else with the whole answer."""
    user_id = request.user.user_id
    if prefers_stream(request):
        return streamed(chat, await chat.start_or_join(user_id, asked, key))
    return await whole(await chat.start(user_id, asked, key))


def prefers_stream(request: ChatConnection) -> bool:
    # Not by `request.accept`, which is kept for as long as the stream is open.
    accept = Accept(request.headers.get("accept", "*/*"))
    return accept.best_match(["application/json", EVENT_STREAM]) == EVENT_STREAM


async def whole(log: TurnLog) -> Response[ChatAnswer | WaitingAnswer]:
    answer = await log.answer()
    status = 202 if isinstance(answer, WaitingAnswer) else 200
    return Response(answer, status_code=status, headers=replay_headers(replayed=log.replayed))


def streamed(chat: ChatService, log: TurnLog, *, after_wait: int = 0) -> Response[Any]:
    return EventStream(
        ui_stream.ui_message_stream(
            log,
            chat.telemetry.metrics.streams_active,
            chat.patience.stream_heartbeat,
            after_wait=after_wait,
        ),
        {**ui_stream.HEADERS, **replay_headers(replayed=log.replayed)},
    )


def replay_headers(*, replayed: bool) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if replayed else {}
