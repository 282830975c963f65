"""Every error leaves as a problem document (RFC 9457), and from here."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException

from chatapi.context import current_request
from chatapi.db.failures import is_transient, unavailable
from chatapi.errors import PROBLEM_TYPE_PREFIX, AppError
from chatapi.logs import text_of
from chatapi.openapi import PROBLEM_MEDIA_TYPE
from chatapi.web.auditing import audit_refusal

log = logging.getLogger(__name__)

# What Litestar raises itself, by status: malformed JSON and failed validation are one thing to a caller.
FRAMEWORK_PROBLEMS = {
    400: (422, "validation-failed", "The request is not valid"),
    404: (404, "not-found", "Not found"),
    405: (405, "method-not-allowed", "Method not allowed"),
    413: (413, "body-too-large", "The body is too large"),
}


def handle_exception(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """The one exception handler."""
    error = first_of(error)
    if isinstance(error, HTTPException) and error.status_code in FRAMEWORK_PROBLEMS:
        return framework_problem(request, error)
    if is_transient(error):
        log.warning("The database is away: %s%s", type(error).__name__, text_of(error))
        error = unavailable(error)
    if not isinstance(error, AppError):
        if not gave_up(error):
            log.error("A defect: %s %s", request.method, request.scope.get("path_template"), exc_info=error)
        error = AppError("The service failed; the log has the request's id.")
    audit_refusal(request, error)
    return problem(request, error.document, error.headers)


def gave_up(error: Exception) -> bool:
    """Whether there is only half a request because its client hung up while it sent it."""
    request = current_request.get()
    return isinstance(error, InternalServerException) and request is not None and request.hung_up


def first_of(error: Exception) -> Exception:
    """A failing COMMIT surfaces from the session's dependency as a group of one."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def framework_problem(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    status, type_, title = FRAMEWORK_PROBLEMS[error.status_code]
    document: dict[str, Any] = {"type": PROBLEM_TYPE_PREFIX + type_, "title": title, "status": status}
    headers = dict(error.headers or {})
    if "allow" in headers and "GET" in headers["allow"].split(", "):
        headers["allow"] += ", HEAD"
    if status != 422:
        details = {404: "Nothing is served at this path.", 413: "A body has 1 MiB at the most."}
        document["detail"] = details.get(status, f"This path takes {headers.get('allow')}.")
        return problem(request, document, headers)
    errors = list(field_errors(error))
    document["detail"] = "; ".join(
        f"{each['path']}: {each['message']}" if each["path"] else each["message"] for each in errors
    )
    return problem(request, {**document, "errors": errors}, headers)


def field_errors(error: HTTPException) -> Iterator[dict[str, str]]:
    extra = error.extra if isinstance(error.extra, list) else []
    for each in extra:
        if each.get("key") == "data":  # Litestar's name for the body as a whole
            yield {"path": "", "message": "A JSON body is needed."}
            continue
        path = str(each.get("key", ""))
        if each.get("source") == "header":  # named as Python names it
            path = path.replace("_", "-").title()
        yield {"path": path, "message": str(each.get("message", "is not valid"))}
    if not extra:
        yield {"path": "", "message": error.detail}


def problem(
    request: Request[Any, Any, Any], document: dict[str, Any], headers: dict[str, str]
) -> Response[dict[str, Any]]:
    return Response(
        {**document, "instance": quote(request.scope["path"])},
        status_code=HTTPStatus(document["status"]),
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers,
    )
