"""What the audit trail has of requests: acts by the routes that name them, and refusals by their errors.

A route names its act where it is declared (`act="task.deleted"`), an error where its class is.
"""

from typing import Any

from litestar import Request
from litestar.types import Message, Scope

from chatapi.audit import audit
from chatapi.context import current_request
from chatapi.errors.auth import Unauthenticated
from chatapi.errors.base import AppError

REFUSED = {401, 403, 429}  # audited as a refusal, by the error


async def audit_act(message: Message, scope: Scope) -> None:
    """A before-send hook: by now the transaction has been committed, or not."""
    if message["type"] != "http.response.start" or message["status"] in REFUSED:
        return
    handler = scope.get("route_handler")
    if handler is None or (act := handler.opt.get("act")) is None:
        return
    subject: dict[str, Any] = {key: value for key, value in scope["path_params"].items() if key != "user_id"}
    if (request := current_request.get()) is not None:
        subject |= request.subject
    audit(act, "success" if message["status"] < 400 else "failure", status=message["status"], **subject)


def audit_refusal(request: Request[Any, Any, Any], error: AppError) -> None:
    """Called by the one exception handler; most errors are no refusals."""
    if error.act is None:
        return
    reason, detail = error.type, None
    if isinstance(error, Unauthenticated):
        reason, detail = error.code or "no_token", error.detail
    audit(
        error.act,
        "denied",
        status=error.status,
        reason=reason,
        detail=detail,
        policy=error.members.get("policy"),
        method=request.method,
        route=request.scope.get("path_template"),
        path_user_id=request.path_params.get("user_id"),
    )
