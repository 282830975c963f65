"""Errors in the form of OpenAI's API, made of ours by one table."""

from http import HTTPStatus
from typing import Any, Literal

from litestar import MediaType, Response
from litestar.openapi import ResponseSpec
from msgspec import Struct

from chatapi.errors import mcp
from chatapi.errors.auth import Unauthenticated
from chatapi.errors.base import AppError, catalogue
from chatapi.errors.models import MessageTooLong, ModelFiltered, ModelLooped, ModelMisconfigured
from chatapi.errors.openai_api import ModelNotFound
from chatapi.errors.requests import BudgetExceeded, Invalid, RateLimited
from chatapi.errors.turns import WaitExpired

PREFIX = "/v1"
# The SDKs wait for so long at the most: Node's ignores a longer Retry-After and asks three times within two seconds.
LONGEST_WAIT = 60

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "conflict_error",
    "rate_limit_error",
    "insufficient_quota",
    "server_error",
]


class Error(Struct, frozen=True, kw_only=True):
    """`code` is stable, and `param` the path of what is wrong in the request."""

    message: str
    type: ErrorType
    param: str | None
    code: str


class ErrorResponse(Struct, frozen=True):
    error: Error


TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
# The codes that clients of OpenAI's API look for. Any other error's code is its own type, with underscores.
CODES: dict[type[AppError], str] = {
    Unauthenticated: "invalid_api_key",
    Invalid: "invalid_value",
    RateLimited: "rate_limit_exceeded",
    BudgetExceeded: "insufficient_quota",
    MessageTooLong: "context_length_exceeded",
}
# The same request would fail in the same way, or would cost as much again.
RETRIED_IN_VAIN = (ModelFiltered, ModelLooped, ModelMisconfigured, WaitExpired)


def error_of(error: AppError) -> Error:
    """The error as OpenAI's API tells it; a stream tells it so, too."""
    named = error.members.get("errors") or [{"path": ""}]
    default: ErrorType = "server_error" if error.status >= 500 else "invalid_request_error"
    return Error(
        message=error.detail,
        type="insufficient_quota" if isinstance(error, BudgetExceeded) else TYPES.get(error.status, default),
        param="model" if isinstance(error, ModelNotFound) else named[0]["path"] or None,
        code=CODES.get(type(error), error.type.replace("-", "_")),
    )


def status_of(error: AppError) -> int:
    """The error's own, but OpenAI's API says 400 where ours says 422: its clients look for that."""
    return 400 if error.status == 422 else error.status


def error_response(error: AppError, _: str) -> Response[Any]:
    return Response(
        ErrorResponse(error_of(error)),
        status_code=HTTPStatus(status_of(error)),
        media_type=MediaType.JSON,
        headers=headers_of(error),
    )


def headers_of(error: AppError) -> dict[str, str]:
    """The error's headers, with those that tell OpenAI's SDKs whether and when to try again."""
    headers = dict(error.headers)
    if error.status >= 500 and error.retry_after is not None:
        headers["Retry-After"] = str(min(error.retry_after, LONGEST_WAIT))
    if not is_worth_a_retry(error):
        headers["x-should-retry"] = "false"
    return headers


def is_worth_a_retry(error: AppError) -> bool:
    """Whether a retry may help, of the errors that the SDKs retry by themselves: 409, 429 and all from 500 on."""
    if error.status in {409, 429}:
        return error.retry_after is not None and error.retry_after <= LONGEST_WAIT
    return not isinstance(error, RETRIED_IN_VAIN)


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """The error responses of an operation: these statuses, and those of every route behind a token."""
    return {status: described(status) for status in sorted({400, 401, 403, 429, 503, *statuses})}


def described(status: int) -> ResponseSpec:
    ours = (kind for kind in catalogue() if kind.__module__ != mcp.__name__)
    kinds = [kind for kind in ours if status in {kind.status, 400 if kind.status == 422 else None}]
    codes = [f"- `{CODES.get(kind, kind.type.replace('-', '_'))}`: {kind.when}" for kind in kinds]
    return ResponseSpec(
        ErrorResponse,
        description="\n".join([f"{HTTPStatus(status).phrase}. `code` is one of:\n", *codes]),
        generate_examples=False,
    )
