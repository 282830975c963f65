"""Checks on the caller's tools, and the trail of its answers."""

from collections.abc import Container, Sequence

from msgspec import UNSET

from chatapi.agent.tools import fault_of_schema
from chatapi.audit import audit
from chatapi.errors.requests import Invalid
from chatapi.turns.schemas import Answer, ClientTool


def check_tools(tools: Sequence[ClientTool], taken: Container[str]) -> None:
    """Raise `Invalid` for a caller's tool that has the name of another, or no schema of an object."""
    errors: list[tuple[str, str]] = []
    names: set[str] = set()
    for place, tool in enumerate(tools):
        path = f"client_tools[{place}]"
        if tool.name in taken:
            errors.append((f"{path}.name", f"{tool.name} is a tool of the service; choose another name."))
        elif tool.name in names:
            errors.append((f"{path}.name", f"{tool.name} is named twice."))
        names.add(tool.name)
        if (fault := fault_of_schema(tool.parameters)) is not None:
            errors.append((f"{path}.parameters", fault))
    if errors:
        raise Invalid(*errors)


def audit_answers(user_id: str, turn_id: int, answers: Sequence[Answer]) -> None:
    """Record who answered which call of which turn, and how; never what an output says."""
    for each in answers:
        is_approval = each.approved is not UNSET
        action = ("tool.approved" if each.approved else "tool.denied") if is_approval else "tool.answered"
        audit(action, "success", user_id=user_id, turn_id=turn_id, call_id=each.id)
