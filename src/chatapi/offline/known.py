"""The tasks in tool results, of this turn or of the history."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct

from chatapi.agent.ports import ToolCall
from chatapi.offline.text import one_line

T = TypeVar("T")
CHANGING = frozenset({"add_task", "complete_task", "delete_task", "update_task"})


class KnownTask(Struct, frozen=True):
    """A task as a tool last returned it; it may have changed since."""

    id: int
    title: str
    description: str | None = None
    completed: bool = False

    @property
    def label(self) -> str:
        """Its line in a list."""
        return f"{one_line(self.title)} (done)" if self.completed else one_line(self.title)


class _Page(Struct, frozen=True):
    items: list[KnownTask]


class Listing(Struct, frozen=True):
    """The tasks of one list, from all its pages."""

    tasks: tuple[KnownTask, ...]


def task_of(call: ToolCall) -> KnownTask | None:
    """The task that a call changed, or None."""
    return _converted(call.result, KnownTask) if call.name in CHANGING else None


def tasks_of(call: ToolCall) -> list[KnownTask]:
    """Every task in a call's result."""
    if call.name == "list_tasks":
        page = _converted(call.result, _Page)
        return page.items if page else []
    return [task] if (task := task_of(call)) else []


def listings_of(calls: Iterable[ToolCall]) -> list[Listing]:
    """The lists that were read, in order, with their pages joined."""
    listings: list[Listing] = []
    for call in calls:
        if call.name != "list_tasks":
            continue
        page = tuple(tasks_of(call))
        if call.arguments.get("cursor") and listings:
            page = (*listings.pop().tasks, *page)
        listings.append(Listing(page))
    return listings


def touched_by(calls: Sequence[ToolCall]) -> list[tuple[ToolCall, KnownTask]]:
    """The calls that changed a task, with the task afterwards (a deleted one as it was before)."""
    return [(call, task) for call in calls if (task := task_of(call))]


def _converted(result: Any, wanted: type[T]) -> T | None:
    # The history may hold results of others' tools of the same name.
    try:
        return None if result is UNSET else msgspec.convert(result, wanted)
    except msgspec.ValidationError:
        return None
