"""The pieces of the OpenAPI document that controllers share: problems, pages and streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, cast

from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Schema,
)
from litestar.params import QueryParameter
from msgspec import UNSET, Struct, UnsetType

from chatapi.errors import mcp, openai_api
from chatapi.errors.base import catalogue

MAX_PAGE = 100  # bounds the work and the bytes of one response

PageSize = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="How many items at the most")]
PageCursor = Annotated[
    str | None, QueryParameter(description="`next_cursor` of the page before", max_length=500)
]


class FieldError(Struct, frozen=True, kw_only=True):
    """`path` leads to what is wrong: members and indexes joined by dots."""

    path: str
    message: str


class Problem(Struct, frozen=True, kw_only=True):
    """Problem details (RFC 9457). `type` is stable; all types are in docs/errors.md.

    `retry_after`, in seconds, is there wherever there is a `Retry-After` header.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str | UnsetType = UNSET
    retry_after: int | UnsetType = UNSET
    errors: list[FieldError] | UnsetType = UNSET
    turn_id: int | UnsetType = UNSET
    conversation_id: int | UnsetType = UNSET
    policy: str | UnsetType = UNSET


OPENAI_TAG = "OpenAI"  # of the operations below /v1, which speak as OpenAI's API does
PROBLEM_MEDIA_TYPE = "application/problem+json"
EVENT_STREAM = "text/event-stream"


def header(
    description: str, *, always: bool = False, type_: OpenAPIType = OpenAPIType.STRING
) -> OpenAPIHeader:
    return OpenAPIHeader(description=description, required=always, schema=Schema(type=type_))


STREAM_HEADERS = {"X-Accel-Buffering": header("Of a stream: `no`, so that nginx holds nothing back.")}
UI_STREAM_HEADERS = STREAM_HEADERS | {
    "x-vercel-ai-ui-message-stream": header("Of a stream: the version of its protocol, `v1`.")
}


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The error responses of an operation: these statuses, and those of every route behind a token."""
    return {status: problem(status) for status in sorted({401, 403, 429, 503, *statuses})}


def problem(status: int) -> ResponseSpec:
    elsewhere = {mcp.__name__, openai_api.__name__}
    ours = (kind for kind in catalogue() if kind.__module__ not in elsewhere)
    kinds = [f"- `{kind.type}`: {kind.when}" for kind in ours if kind.status == status]
    return ResponseSpec(
        Problem,
        description="\n".join([f"{HTTPStatus(status).phrase}. The last part of `type` is one of:\n", *kinds]),
        media_type=PROBLEM_MEDIA_TYPE,
        generate_examples=False,
    )


@dataclass
class StreamOrJSONOperation(Operation):
    """An operation that answers with JSON or a stream."""

    def __post_init__(self) -> None:
        content_of_success(self)[EVENT_STREAM] = STREAM
        add_headers(self, "200", UI_STREAM_HEADERS)


@dataclass
class OpenAIStreamOrJSONOperation(Operation):
    """As `StreamOrJSONOperation`, below `/v1`."""

    def __post_init__(self) -> None:
        content_of_success(self)[EVENT_STREAM] = OpenAPIMediaType(
            schema=Schema(
                description="With `stream: true`, server-sent events of OpenAI's API; see docs/openai.md."
            )
        )
        add_headers(self, "200", STREAM_HEADERS)


@dataclass
class StreamOperation(Operation):
    """An operation that answers with a stream only."""

    def __post_init__(self) -> None:
        content = content_of_success(self)
        content.clear()
        content[EVENT_STREAM] = STREAM
        add_headers(self, "200", UI_STREAM_HEADERS)


STREAM = OpenAPIMediaType(
    schema=Schema(  # without a type: OpenAPI 3.1 does not say whether a stream's is that of its text or of its events
        description="The AI SDK's UI message stream, version 1, as server-sent events; see docs/frontend.md.",
    )
)


def content_of_success(operation: Operation) -> dict[str, OpenAPIMediaType]:
    success = response_of(operation, "200")
    success.content = success.content or {}
    return success.content


def add_headers(operation: Operation, status: str, headers: Mapping[str, OpenAPIHeader]) -> None:
    response = response_of(operation, status)
    response.headers = {**(response.headers or {}), **headers}


def response_of(operation: Operation, status: str) -> OpenAPIResponse:
    return cast("OpenAPIResponse", (operation.responses or {})[status])
