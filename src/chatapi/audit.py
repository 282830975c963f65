"""The audit trail: one event for each act that changes data or is refused. Its fields: docs/security.md.

An event holds ids and reasons, never a token, a key or the text of a user. It takes its user, request id and address
from the request that the act is part of.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from chatapi.context import current_request

log = logging.getLogger("chatapi.audit")

Outcome = Literal["success", "failure", "denied"]


@runtime_checkable
class HasSubject(Protocol):
    """Something whose `subject` holds its ids, by their names in the trail."""

    @property
    def subject(self) -> Mapping[str, int]: ...


def name_subject(made: HasSubject) -> None:
    """Add the ids of what the request has made, which are not in the route's path."""
    if (request := current_request.get()) is not None:
        request.subject = made.subject


def audit(action: str, outcome: Outcome, **fields: Any) -> None:
    """Record an act as a line of JSON, without the fields that are None."""
    request = current_request.get()
    event = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": "audit",
        "action": action,
        "outcome": outcome,
        "user_id": request and request.user_id,
        "by_key_id": request and request.key_id,
        "request_id": request and request.request_id,
        "address": request and request.address,
        **fields,
    }
    log.info(
        msgspec.json.encode({name: value for name, value in event.items() if value is not None}).decode()
    )
