"""The tools as the offline assistant uses them, with a record of this turn's calls."""

from typing import Any

from msgspec import UNSET, Struct

from chatapi.agent.ports import ToolCall, Tools
from chatapi.offline.intents import Status
from chatapi.offline.known import KnownTask, task_of, tasks_of
from chatapi.offline.questions import Action
from chatapi.offline.text import quote

MOST_PAGES = 5  # of 100 tasks: bounds what a turn reads, and is more than anyone talks about


class CannotRead(Exception):
    """The list could not be read; the text says why."""


class Outcome(Struct, frozen=True):
    """The outcome of a change: the task as the tool returned it, or what went wrong."""

    task: KnownTask | None
    problem: str = ""


class Desk:
    """All writes and reads of a turn go through here; `calls` records them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.calls: list[ToolCall] = []

    async def _call(self, name: str, arguments: dict[str, Any]) -> ToolCall:
        call = await self._tools.call(name, arguments)
        self.calls.append(call)
        return call

    async def tasks(self, status: Status = "all") -> tuple[list[KnownTask], bool]:
        """The user's tasks, and whether these are all; raises `CannotRead`."""
        found: list[KnownTask] = []
        arguments: dict[str, Any] = {"status": status}
        for _ in range(MOST_PAGES):
            call = await self._call("list_tasks", arguments)
            if call.error is not UNSET:
                raise CannotRead(str(call.error))
            found += tasks_of(call)
            cursor = call.result.get("next_cursor") if isinstance(call.result, dict) else None
            if cursor is None:
                return found, True
            arguments = {"status": status, "cursor": cursor}
        return found, False

    async def search(self, query: str) -> ToolCall:
        return await self._call("search_conversations", {"query": query})

    async def add(self, title: str, description: str | None = None) -> Outcome:
        arguments = {"title": title} if description is None else {"title": title, "description": description}
        return _outcome(await self._call("add_task", arguments), "add", title)

    async def carry_out(self, action: Action, task: KnownTask) -> Outcome:
        arguments: dict[str, Any] = {"task_id": task.id}
        match action.verb:
            case "complete" | "delete" as verb:
                return _outcome(await self._call(f"{verb}_task", arguments), verb, task.title)
            case "reopen":
                arguments["completed"] = False
            case "rename":
                arguments["title"] = action.value
            case "describe":
                arguments["description"] = action.value
        return _outcome(await self._call("update_task", arguments), action.verb, task.title)


def _outcome(call: ToolCall, verb: str, title: str) -> Outcome:
    if call.error is UNSET and (task := task_of(call)):
        return Outcome(task)
    return Outcome(None, f"I couldn't {verb} {quote(title)}: {_reason(call)}")


def _reason(call: ToolCall) -> str:
    """A tool's error in words for people, or the tool's own words if there are none better."""
    if call.error is UNSET:
        return "the tool's answer made no sense to me."
    error, title = str(call.error), str(call.arguments.get("title", ""))
    if "length" in error and error.startswith("title:"):
        return f"a title may have 1 to 200 characters, and that one has {len(title)}."
    if "length" in error and error.startswith("description:"):
        return "a description may have at most 2,000 characters."
    if error.startswith("There is no task"):
        return "it is no longer on your list."
    return error
