"""The request that this code runs for, for those who are not handed one: the audit trail, the logs and the limits.

A context variable, so that the task of a turn, which outlives its request, still knows whose act it carries out.
"""

from collections.abc import Mapping
from contextvars import ContextVar


class RequestContext:
    """`user_id` is set once the token holds, `turn_id` once a turn has begun, `trace_id` where requests are traced.

    `headers` go on the response, whatever becomes of the request. `subject` is what the request has made, by the names of
    the audit trail. `hung_up` is set when the client has gone.
    """

    __slots__ = (
        "address",
        "headers",
        "hung_up",
        "method",
        "request_id",
        "subject",
        "trace_id",
        "turn_id",
        "user_id",
    )

    def __init__(self, request_id: str, address: str | None, method: str = "") -> None:
        self.request_id = request_id
        self.address = address
        self.method = method
        self.user_id: str | None = None
        self.turn_id: int | None = None
        self.trace_id: str | None = None
        self.headers: dict[str, str] = {}
        self.subject: Mapping[str, int] = {}
        self.hung_up = False

    def log_fields(self) -> dict[str, str | int]:
        """What each line about this request has; what is not known is left out."""
        fields = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "turn_id": self.turn_id,
            "trace_id": self.trace_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
