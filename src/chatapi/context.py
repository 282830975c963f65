"""The current request, for the code that does not get it as an argument: the audit trail, the logs and the limits.

It is a context variable, so that the task of a turn still knows its request and user after the request has ended.
"""

from collections.abc import Mapping
from contextvars import ContextVar


class RequestContext:
    """`user_id` is set once the token holds, with `key_id` if it is an API key, `turn_id` once a turn has begun, `trace_id` where requests are traced.

    `headers` go on the response, also on that of an error. `subject` holds the ids of what the request has made, by their
    names in the audit trail. `counted` is set once a limit of users has counted the request, `hung_up` when the client has gone.
    """

    __slots__ = (
        "address",
        "counted",
        "headers",
        "hung_up",
        "key_id",
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
        self.key_id: int | None = None
        self.turn_id: int | None = None
        self.trace_id: str | None = None
        self.headers: dict[str, str] = {}
        self.subject: Mapping[str, int] = {}
        self.counted = False
        self.hung_up = False

    def log_fields(self) -> dict[str, str | int]:
        """The fields of each log line about this request, without those that are not known."""
        fields = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "turn_id": self.turn_id,
            "trace_id": self.trace_id,
        }
        return {name: value for name, value in fields.items() if value is not None}


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
