"""Talks to the offline assistant, and tests that it follows a conversation.

`Conversation` keeps the history as the service does; `FakeTools` keeps tasks as the tools do, and checks arguments by
the tools' own structs.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from chatapi.agent.ports import HistoryMessage, Prompt, Resumed, TextDelta, ToolCall, ToolSpec, Wait
from chatapi.agent.tools import ListTasks, OneTask, UpdateTask
from chatapi.offline import OfflineAgent
from chatapi.tasks.schemas import TaskContent
from chatapi.text import path_and_message

HISTORY_LIMIT = 20


class FakeTools:
    """Tasks in memory; `broken` tools answer with an error, `page` is how many tasks a page has.

    Calls of the tools named in `asking` need approval: they are `pending` until they are made again by their ids, and
    then made if these are `approved`.
    """

    ARGUMENTS: ClassVar[dict[str, type[Struct]]] = {
        "add_task": TaskContent,
        "list_tasks": ListTasks,
        "complete_task": OneTask,
        "delete_task": OneTask,
        "update_task": UpdateTask,
    }

    def __init__(self, *titles: str, page: int = 100) -> None:
        self.tasks: dict[int, dict[str, Any]] = {}
        self.calls: list[ToolCall] = []
        self.broken: dict[str, str] = {}
        self.asking: set[str] = set()
        self.pending: dict[str, ToolCall] = {}
        self.approved: list[str] = []
        self.page = page
        self.last_id = 100  # so that no number in a message is an id by chance
        for title in titles:
            self.add_task(TaskContent(title=title.removesuffix("*")))["completed"] = title.endswith("*")

    @property
    def specs(self) -> list[ToolSpec]:
        return [
            ToolSpec(name=name, description="", parameters={}, needs_approval=True) for name in self.asking
        ]

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        call_id: str | None = None,
        may_wait: bool = False,
        **_: Any,
    ) -> ToolCall:
        outcome: dict[str, Any]
        if call_id:
            assert (self.pending[call_id].name, self.pending[call_id].arguments) == (name, arguments)
            del self.pending[call_id]
        elif name in self.asking:
            assert may_wait
            id_ = f"pending {len(self.calls)} {len(self.pending)}"
            self.pending[id_] = ToolCall(id=id_, name=name, arguments=dict(arguments))
            return self.pending[id_]
        try:
            if call_id and call_id not in self.approved:
                raise LookupError("The user did not allow this call.")
            if name in self.broken:
                raise LookupError(self.broken[name])
            result = getattr(self, name)(msgspec.convert(arguments, self.ARGUMENTS[name]))
            outcome = {"result": msgspec.json.decode(msgspec.json.encode(result))}
        except msgspec.ValidationError as error:
            outcome = {"error": ": ".join(path_and_message(error))}
        except LookupError as error:
            outcome = {"error": str(error.args[0])}
        self.calls.append(ToolCall(id=str(len(self.calls)), name=name, arguments=dict(arguments), **outcome))
        return self.calls[-1]

    def add_task(self, call: TaskContent) -> dict[str, Any]:
        self.last_id += 1
        times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
        task = {
            "id": self.last_id,
            "title": call.title,
            "description": call.description,
            "completed": False,
            **times,
        }
        self.tasks[self.last_id] = task
        return task

    def list_tasks(self, call: ListTasks) -> dict[str, Any]:
        found = [
            task
            for task in self.tasks.values()
            if call.status == "all" or task["completed"] == (call.status == "completed")
        ]
        found = [task for task in found if task["id"] > int(call.cursor or 0)]
        more = len(found) > self.page
        return {"items": found[: self.page], "next_cursor": str(found[self.page - 1]["id"]) if more else None}

    def one(self, task_id: int) -> dict[str, Any]:
        if task_id not in self.tasks:
            raise LookupError(f"There is no task {task_id} of yours.")
        return self.tasks[task_id]

    def complete_task(self, call: OneTask) -> dict[str, Any]:
        self.one(call.task_id)["completed"] = True
        return self.one(call.task_id)

    def delete_task(self, call: OneTask) -> dict[str, Any]:
        task = self.one(call.task_id)
        del self.tasks[call.task_id]
        return task

    def update_task(self, call: UpdateTask) -> dict[str, Any]:
        changes = {name: value for name, value in msgspec.structs.asdict(call).items() if value is not UNSET}
        changes.pop("task_id")
        self.one(call.task_id).update(changes)
        return self.one(call.task_id)


class Conversation:
    """Keeps the history as the service will: whole turns, cut to the last messages."""

    def __init__(self, *titles: str, page: int = 100) -> None:
        self.tools = FakeTools(*titles, page=page)
        self.history: list[HistoryMessage] = []
        self.agent = OfflineAgent()

    async def say(self, message: str, *allowed: Callable[[int], bool]) -> str:
        """`allowed` has for each wait of the turn which of its calls the user allows, by their tasks' ids.

        A turn that waits longer than that is left behind.
        """
        before = len(self.tools.calls)
        prompt = Prompt(user_id="ann", conversation_id=1, message=message, history=tuple(self.history))
        answer, state = await self._reply(prompt)
        for allows in allowed:
            ids = [
                each.id for each in self.tools.pending.values() if allows(each.arguments.get("task_id", 0))
            ]
            self.tools.approved += ids
            told, state = await self._reply(replace(prompt, resumed=Resumed(state=state, approved=ids)))
            answer += told
        self.tools.calls += [
            replace(call, error="Nobody had answered.") for call in self.tools.pending.values()
        ]
        self.tools.pending.clear()
        self.history += [
            HistoryMessage(role="user", content=message),
            HistoryMessage(role="assistant", content=answer, tool_calls=tuple(self.tools.calls[before:])),
        ]
        self.history = self.history[-HISTORY_LIMIT:]
        return answer

    async def _reply(self, prompt: Prompt) -> tuple[str, Any]:
        """What was said, and the state that the turn waits with, as it comes back from storage."""
        events = [event async for event in self.agent.reply(prompt, self.tools)]
        waits = [event for event in events if isinstance(event, Wait)]
        deltas = [event for event in events if isinstance(event, TextDelta) and event.text]
        assert len(deltas) + len(waits) == len(events)
        assert bool(waits) == bool(self.tools.pending)
        said = "".join(delta.text for delta in deltas)
        return said, msgspec.json.decode(msgspec.json.encode(waits[0].state)) if waits else None

    async def say_all(self, *messages: str) -> str:
        """The answer to the last message."""
        answers = [await self.say(message) for message in messages]
        return answers[-1]

    @property
    def titles(self) -> list[str]:
        """The tasks on the list, with a star behind those that are done."""
        return [task["title"] + "*" * task["completed"] for task in self.tools.tasks.values()]

    @property
    def changes(self) -> list[str]:
        """The calls that changed something, as "complete milk" or "update milk title=bread"."""
        return [
            changed(call) for call in self.tools.calls if call.name != "list_tasks" and call.error is UNSET
        ]


def changed(call: ToolCall) -> str:
    values = {name: value for name, value in call.arguments.items() if name != "task_id"}
    title = values.pop("title") if call.name == "add_task" else _title(call)
    return " ".join(
        [call.name.removesuffix("_task"), title, *(f"{name}={value}" for name, value in values.items())]
    )


def _title(call: ToolCall) -> str:
    assert isinstance(call.result, dict)
    return str(call.result["title"])
