"""The audit trail: one event for each act that changes data or is refused. Its fields: docs/security.md.

Ids and reasons only: never what a user wrote, a token or a key. Who acts, in which request and from where comes from
the request that the act is part of.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from chatapi.context import current_request

log = logging.getLogger("chatapi.audit")

Outcome = Literal["success", "failure", "denied"]


def audit(action: str, outcome: Outcome, **fields: Any) -> None:
    """Record an act as a line of JSON; fields that are None are left out."""
    request = current_request.get()
    event = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": "audit",
        "action": action,
        "outcome": outcome,
        "user_id": request and request.user_id,
        "request_id": request and request.request_id,
        "address": request and request.address,
        **fields,
    }
    log.info(
        msgspec.json.encode({name: value for name, value in event.items() if value is not None}).decode()
    )
