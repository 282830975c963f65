"""The request that this code runs for, for those who are not handed one: the audit trail and the limits.

A context variable, so that the task of a turn, which outlives its request, still knows whose act it carries out.
"""

from contextvars import ContextVar


class RequestContext:
    """`user_id` is set once the token holds. `headers` go on the response, whatever becomes of the request."""

    __slots__ = ("address", "headers", "request_id", "user_id")

    def __init__(self, request_id: str, address: str | None) -> None:
        self.request_id = request_id
        self.address = address
        self.user_id: str | None = None
        self.headers: dict[str, str] = {}


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
