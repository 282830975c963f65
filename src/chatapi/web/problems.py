"""The exception handler, which answers every error: with a problem document (RFC 9457), or in a path's own form."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import quote

from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException

from chatapi.context import current_request
from chatapi.db.failures import is_transient, unavailable
from chatapi.errors.base import AppError, Defect
from chatapi.errors.requests import BodyTooLarge, Invalid, MethodNotAllowed, NotFound
from chatapi.logs import text_of
from chatapi.openapi import PROBLEM_MEDIA_TYPE
from chatapi.web.auditing import audit_refusal

log = logging.getLogger(__name__)

# Litestar tells the name of a parameter that is missing in this sentence alone.
MISSING = re.compile(r"Missing required \w+ parameter '([^']+)'")

Form: TypeAlias = Callable[[AppError, str], Response[Any]]  # from the error and the request's path


def exception_handler(
    forms: Mapping[str, Form],
) -> Callable[[Request[Any, Any, Any], Exception], Response[Any]]:
    """Make the one exception handler. Errors at and below the paths in `forms` have those forms."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        known = meaning_of(request, error)
        audit_refusal(request, known)
        path = request.scope["path"]
        return next((form for base, form in forms.items() if f"{path}/".startswith(f"{base}/")), problem)(
            known, path
        )

    return handle


def problem(error: AppError, path: str) -> Response[Any]:
    return Response(
        {**error.document, "instance": quote(path)},
        status_code=HTTPStatus(error.status),
        media_type=PROBLEM_MEDIA_TYPE,
        headers=error.headers,
    )


def meaning_of(request: Request[Any, Any, Any], error: Exception) -> AppError:
    """Our error for whatever was raised; what nobody has thought of is logged, and a defect."""
    error = first_of(error)
    if is_transient(error):
        log.warning("The database is away: %s%s", type(error).__name__, text_of(error))
        error = unavailable(error)
    if isinstance(error, HTTPException):
        error = refusal_of(error) or error
    if isinstance(error, AppError):
        return error
    if not gave_up(error):
        log.error("A defect: %s %s", request.method, request.scope.get("path_template"), exc_info=error)
    return Defect("The service failed; the log has the request's id.")


def gave_up(error: Exception) -> bool:
    """Whether the client hung up while it was sending its request."""
    request = current_request.get()
    return isinstance(error, InternalServerException) and request is not None and request.hung_up


def first_of(error: Exception) -> Exception:
    """The error itself: a failing COMMIT comes from the session's dependency as a group of one."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def refusal_of(error: HTTPException) -> AppError | None:
    """Our error for one of Litestar's own. Malformed JSON and failed validation are the same to a caller."""
    match error.status_code:
        case 400:
            return Invalid(*field_errors(error))
        case 404:
            return NotFound("Nothing is served at this path.")
        case 405:
            allow = (error.headers or {}).get("allow", "")
            return MethodNotAllowed(f"{allow}, HEAD" if "GET" in allow.split(", ") else allow)
        case 413:
            return BodyTooLarge()
    return None


def field_errors(error: HTTPException) -> Iterator[tuple[str, str]]:
    extra = error.extra if isinstance(error.extra, list) else []
    for each in extra:
        if each.get("key") == "data":  # Litestar's name for the body as a whole
            yield "", "A JSON body is needed."
            continue
        path = str(each.get("key", "")).removesuffix("_")  # `from_`, since Python has taken `from`
        if each.get("source") == "header":  # its key is the name of the Python parameter
            path = path.replace("_", "-").title()
        yield path, str(each.get("message", "is not valid"))
    if not extra:
        missing = MISSING.match(error.detail)
        yield (missing[1], "is missing") if missing else ("", error.detail)
