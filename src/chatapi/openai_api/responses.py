"""`/v1/responses`: turns as responses of OpenAI's API.

https://platform.openai.com/docs/api-reference/responses
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from chatapi.errors.models import OptionNotSupported
from chatapi.errors.requests import Invalid
from chatapi.openai_api.errors import errors
from chatapi.openai_api.lists import After, ItemList, Limit, includes_nothing, list_of
from chatapi.openai_api.response_body import ResponseBody
from chatapi.openai_api.response_events import ResponseStream
from chatapi.openai_api.response_objects import response_of
from chatapi.openai_api.response_service import Begun, ResponseService, Unstored
from chatapi.openai_api.serving import (
    MAX_BODY_BYTES,
    ChatConnection,
    KeyHeader,
    stop_after,
    stream,
    unless_hung_up,
)
from chatapi.openapi import OPENAI_TAG, OpenAIStreamOrJSONOperation
from chatapi.turns.controllers import replay_headers

StartingAfter = Annotated[
    int, QueryParameter(ge=-1, description="With `stream=true`: only the events after this `sequence_number`")
]


class ResponseObject(Struct, frozen=True, kw_only=True):
    """What a request says comes back, too: see https://platform.openai.com/docs/api-reference/responses/object."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    model: str
    output: Sequence[dict[str, Any]]
    conversation: dict[str, Any] | None
    usage: dict[str, Any] | None


class DeletedResponse(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ResponseController(Controller):
    path = "/responses"
    tags = (OPENAI_TAG,)

    @post(
        operation_id="createResponse",
        summary="Ask for a response",
        status_code=200,
        responses=errors(404, 409, 413, 415, 502, 504),
        operation_class=OpenAIStreamOrJSONOperation,
        limits_itself=True,
        request_max_body_size=MAX_BODY_BYTES,
    )
    async def create(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        data: JSONBody[ResponseBody],
        idempotency_key: KeyHeader = None,
    ) -> Response[ResponseObject]:
        """Begins a turn: in a new conversation, in `conversation`, or after `previous_response_id`.

        Answers to the calls of a response that waits make the next response of the same turn.
        """
        user_id = request.user.user_id
        try:
            if data.store is False:
                if idempotency_key:
                    raise Invalid(("Idempotency-Key", "holds for what is stored, and `store` is false"))
                return await unstored(
                    request, responses, await responses.create_unstored(user_id, data), data
                )
            begun = await responses.create(user_id, data, idempotency_key or None)
        except OptionNotSupported as error:
            raise data.refusal_of(error) from None
        if data.stream:
            return streamed(responses, begun)
        if not data.background:
            await begun.log.answer()
        return whole(begun)

    @get(
        "/{response_id:str}",
        operation_id="readResponse",
        summary="Read a response, or follow it",
        responses=errors(404),
        operation_class=OpenAIStreamOrJSONOperation,
    )
    async def read(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        response_id: FromPath[str],
        stream: FromQuery[bool] = False,  # noqa: FBT002 - Litestar passes it by name
        starting_after: StartingAfter = -1,
    ) -> Response[ResponseObject]:
        """As far as it is; with `stream=true` its events from the first, in whichever process its turn runs or has run."""
        begun = await responses.find(request.user.user_id, response_id)
        return streamed(responses, begun, after=starting_after) if stream else whole(begun)

    @post(
        "/{response_id:str}/cancel",
        operation_id="cancelResponse",
        summary="Cancel a response",
        status_code=200,
        responses=errors(404),
        act="turn.cancelled",
    )
    async def cancel(
        self, request: ChatConnection, responses: NamedDependency[ResponseService], response_id: FromPath[str]
    ) -> Response[ResponseObject]:
        """What it has said and done so far is kept. A response that has ended stays as it is."""
        return whole(await responses.cancel(request.user.user_id, response_id))

    @delete(
        "/{response_id:str}",
        operation_id="deleteResponse",
        summary="Delete a response",
        status_code=200,
        responses=errors(404),
        act="turn.deleted",
    )
    async def remove(
        self, request: ChatConnection, responses: NamedDependency[ResponseService], response_id: FromPath[str]
    ) -> DeletedResponse:
        """Deletes its turn, with its messages. A conversation that was made for it goes with the last turn in it."""
        await responses.remove(request.user.user_id, response_id)
        return DeletedResponse(id=response_id)

    @get(
        "/{response_id:str}/input_items",
        operation_id="listInputItems",
        summary="List a response's input",
        responses=errors(404),
        guards=[includes_nothing],
    )
    async def input_items(
        self,
        request: ChatConnection,
        responses: NamedDependency[ResponseService],
        response_id: FromPath[str],
        limit: Limit = 20,
        after: After = None,
        order: FromQuery[Literal["asc", "desc"]] = "desc",
    ) -> ItemList:
        return list_of(
            await responses.input_items(
                request.user.user_id, response_id, limit=limit, after=after, order=order
            )
        )


def whole(begun: Begun) -> Response[Any]:
    return Response(response_of(begun.log, begun.facts), headers=replay_headers(replayed=begun.log.replayed))


def streamed(responses: ResponseService, begun: Begun, *, after: int = -1) -> Response[Any]:
    events = ResponseStream(begun.log, begun.facts, after=after).read
    return stream(responses.chat, events, replay_headers(replayed=begun.log.replayed))


async def unstored(
    request: ChatConnection, responses: ResponseService, begun: Unstored, body: ResponseBody
) -> Response[Any]:
    """Respond with what is no turn; it ends when the client hangs up."""
    runner, facts = begun
    if body.stream:
        events = ResponseStream(runner.log, facts).read
        return stream(responses.chat, events, background=stop_after(runner))
    await unless_hung_up(request, runner, runner.log.answer())
    return Response(response_of(runner.log, facts))
