"""The pieces of the OpenAPI document that controllers share: problems, pages and streams."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, cast

from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, Operation, Schema
from litestar.params import QueryParameter
from msgspec import UNSET, Struct, UnsetType

from chatapi.errors import openai_api
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


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The error responses of an operation: these statuses, and those of every route behind a token."""
    return {status: problem(status) for status in sorted({401, 403, 429, 503, *statuses})}


def problem(status: int) -> ResponseSpec:
    ours = (kind for kind in catalogue() if kind.__module__ != openai_api.__name__)
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


@dataclass
class OpenAIStreamOrJSONOperation(Operation):
    """As `StreamOrJSONOperation`, below `/v1`."""

    def __post_init__(self) -> None:
        content_of_success(self)[EVENT_STREAM] = OpenAPIMediaType(
            schema=Schema(
                description="With `stream: true`, server-sent events of OpenAI's API; see docs/openai.md."
            )
        )


@dataclass
class StreamOperation(Operation):
    """An operation that answers with a stream only."""

    def __post_init__(self) -> None:
        content = content_of_success(self)
        content.clear()
        content[EVENT_STREAM] = STREAM


STREAM = OpenAPIMediaType(
    schema=Schema(  # without a type: OpenAPI 3.1 does not say whether a stream's is that of its text or of its events
        description="The AI SDK's UI message stream, version 1, as server-sent events; see docs/frontend.md.",
    )
)


def content_of_success(operation: Operation) -> dict[str, OpenAPIMediaType]:
    success = cast("OpenAPIResponse", (operation.responses or {})["200"])
    success.content = success.content or {}
    return success.content
