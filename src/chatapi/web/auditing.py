"""The audit trail of requests: a route names the act that it records, and an error the refusal.

A route names its act in its declaration (`act="task.deleted"`), an error in its class.
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
    """Record the act of a request. A before-send hook, so the transaction has been committed or rolled back."""
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
    """Record a refusal. The exception handler calls this for every error, though most are no refusals."""
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
