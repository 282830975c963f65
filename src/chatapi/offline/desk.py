"""The tools as the offline assistant uses them, with a record of this turn's calls."""

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from chatapi.agent.ports import ToolCall, Tools
from chatapi.offline.intents import Status
from chatapi.offline.known import KnownTask, task_of, tasks_of
from chatapi.offline.questions import Action, Wish, leave_undone
from chatapi.offline.text import quote

MOST_PAGES = 5  # of 100 tasks: bounds what a turn reads, and is more than anyone talks about


NOT_YET = "I have to ask first."  # of a command that is carried out again when its user has answered


class CannotRead(Exception):
    """The list could not be read; the text says why."""


class NeedsApproval(Exception):
    """Something may be read only when the user has allowed it."""


class Outcome(Struct, frozen=True):
    """The outcome of a change: the task as the tool returned it, or what went wrong.

    `denied` is a change that the user has not allowed.
    """

    task: KnownTask | None
    problem: str = ""
    denied: Wish | None = None


class Desk:
    """All writes and reads of a turn go through here; `calls` records them.

    A call that needs its user's approval is not made but becomes one of the `wishes`, and the command is carried out
    again when they are answered (`ask`). What it had called by then is `recorded`, and is not called again.
    """

    def __init__(
        self,
        tools: Tools,
        calls: Sequence[ToolCall] = (),
        recorded: Sequence[ToolCall] = (),
        approved: Collection[str] = (),
    ) -> None:
        self._tools = tools
        self._asking = {spec.name for spec in tools.specs if spec.needs_approval}
        self._recorded = list(recorded)
        self._approved = approved
        self._wanted: list[tuple[str, dict[str, Any]]] = []
        self.wishes: list[Wish] = []
        self.calls = list(calls)

    def needs_approval(self, action: Action) -> bool:
        return _tool_of(action) in self._asking

    async def ask(self, since: int) -> Sequence[ToolCall]:
        """Ask for what is wished; returns the calls from `calls[since]` on, which it takes back, and those asked about."""
        asked = [await self._tools.call(*wanted, may_wait=True) for wanted in self._wanted]
        self._recorded = [*self.calls[since:], *asked, *self._recorded]
        del self.calls[since:], self._wanted[:], self.wishes[:]
        return tuple(self._recorded)

    async def _call(self, name: str, arguments: dict[str, Any], wish: Wish) -> tuple[ToolCall, bool]:
        """The call, without an outcome if that needs an approval, and whether the user has denied it."""
        earlier = next(
            (one for one in self._recorded if (one.name, one.arguments) == (name, arguments)), None
        )
        denied = False
        if earlier is not None:
            self._recorded.remove(earlier)
            call = earlier
            if earlier.waits:
                call = await self._tools.call(name, arguments, call_id=earlier.id, may_wait=True)
                denied = earlier.id not in self._approved
        elif name in self._asking:
            self.wishes.append(wish)
            self._wanted.append((name, arguments))
            return ToolCall(id="", name=name, arguments=arguments), False
        else:
            call = await self._tools.call(name, arguments)
        self.calls.append(call)
        return call, denied

    async def tasks(self, status: Status = "all") -> tuple[list[KnownTask], bool]:
        """The user's tasks, and whether these are all; raises `CannotRead`."""
        found: list[KnownTask] = []
        arguments: dict[str, Any] = {"status": status}
        for _ in range(MOST_PAGES):
            call = await self._read("list_tasks", arguments, Wish("look at your list"))
            if call.error is not UNSET:
                raise CannotRead(str(call.error))
            found += tasks_of(call)
            cursor = call.result.get("next_cursor") if isinstance(call.result, dict) else None
            if cursor is None:
                return found, True
            arguments = {"status": status, "cursor": cursor}
        return found, False

    async def search(self, query: str) -> ToolCall:
        wish = Wish("search our conversations for", query)
        return await self._read("search_conversations", {"query": query}, wish)

    async def _read(self, name: str, arguments: dict[str, Any], wish: Wish) -> ToolCall:
        call, denied = await self._call(name, arguments, wish)
        if call.waits:
            raise NeedsApproval
        return replace(call, error="you didn't allow it.") if denied else call

    async def add(self, title: str, description: str | None = None) -> Outcome:
        arguments = {"title": title} if description is None else {"title": title, "description": description}
        return await self._change("add_task", arguments, "add", Wish("add", title, " to your list"))

    async def carry_out(self, action: Action, task: KnownTask) -> Outcome:
        arguments: dict[str, Any] = {"task_id": task.id}
        match action.verb:
            case "reopen":
                arguments["completed"] = False
            case "rename":
                arguments["title"] = action.value
            case "describe":
                arguments["description"] = action.value
        return await self._change(_tool_of(action), arguments, action.verb, action.wish(task.title))

    async def _change(self, tool: str, arguments: dict[str, Any], verb: str, wish: Wish) -> Outcome:
        call, denied = await self._call(tool, arguments, wish)
        if call.waits:
            return Outcome(None, NOT_YET)
        if denied:
            return Outcome(None, leave_undone([wish]), denied=wish)
        if call.error is UNSET and (task := task_of(call)):
            return Outcome(task)
        return Outcome(None, f"I couldn't {verb} {quote(wish.title)}: {_reason(call)}")


def _tool_of(action: Action) -> str:
    return f"{action.verb}_task" if action.verb in ("complete", "delete") else "update_task"


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
