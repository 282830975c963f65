"""The registry: each tool is written once, here, whoever offers it.

A tool's arguments are a struct, from which its JSON Schema comes, and never name a user: the owner is handed in by
whoever bound the tools, so that nothing a model says can change whose data is touched.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolError, ToolSpec
from chatapi.agent.schemas import offer
from chatapi.db.paging import MAX_ID, Page
from chatapi.errors.base import AppError
from chatapi.tasks.schemas import NewTask, Task, TaskChanges, TaskDescription, TaskStatus, TaskTitle
from chatapi.tasks.service import TaskService
from chatapi.text import path_and_message

LIST_LIMIT = 100  # bounds what one call can put before a model; the REST page's own bound
ArgumentsT = TypeVar("ArgumentsT", bound=Struct)


class Tool(Struct, Generic[ArgumentsT], frozen=True, kw_only=True):
    """`run` gets a session inside a transaction, the owner, and arguments that hold, and gives a `result`.

    `read_only`: changes nothing. `destructive`: what was there before may be gone. `idempotent`: again with the same
    arguments changes nothing more. Clients go by these when they decide whether to ask their user first.
    `act` is what the audit trail calls it; a tool that only reads has none.
    """

    name: str
    title: str
    description: str
    arguments: type[ArgumentsT]
    result: Any
    run: Callable[[AsyncSession, str, ArgumentsT], Awaitable[Struct]]
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    act: str | None = None

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            name=self.name, description=self.description, parameters=arguments_schema(self.arguments)
        )

    async def __call__(self, session: AsyncSession, user_id: str, arguments: dict[str, Any]) -> Any:
        """The result as JSON values; raises `ToolError` when the arguments don't hold or name what isn't there."""
        try:
            return msgspec.to_builtins(
                await self.run(session, user_id, msgspec.convert(arguments, self.arguments)), builtin_types=()
            )
        except msgspec.ValidationError as error:
            path, message = path_and_message(error)
            raise ToolError(f"{path or 'The call'}: {message}") from error
        except AppError as error:
            if error.status >= 500:
                raise
            raise ToolError(error.detail) from error


class ExternalTool(Struct, frozen=True, kw_only=True):
    """A tool whose effect is not in our database, so that it must not run inside one of its transactions.

    `parameters` is a JSON Schema of an object; `call` gives a JSON value or raises `ToolError`.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    call: Callable[[dict[str, Any]], Awaitable[Any]]

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)


ExternalToolSource: TypeAlias = Callable[[], Mapping[str, ExternalTool]]


def no_external_tools() -> Mapping[str, ExternalTool]:
    return {}


@cache  # milliseconds for what never changes, and every turn needs them all
def object_schema(type_: Any) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a struct, with the object itself at the root, as models and MCP want it."""
    (schema,), definitions = msgspec.json.schema_components([type_], ref_template="#/$defs/{name}")
    root = definitions.pop(schema["$ref"].rsplit("/", 1)[-1])
    root.pop("title", None)
    root.pop("description", None)
    return {**root, **({"$defs": definitions} if definitions else {})}


@cache
def arguments_schema(type_: Any) -> dict[str, Any]:
    """As `object_schema`, in the few words that all servers of models understand."""
    return offer(object_schema(type_)).schema


class AddTask(Struct, frozen=True, forbid_unknown_fields=True):
    title: TaskTitle
    description: TaskDescription | None = None


class ListTasks(Struct, frozen=True, forbid_unknown_fields=True):
    status: TaskStatus = "all"
    cursor: Annotated[str | None, Meta(description="next_cursor of the page before")] = None


TaskId = Annotated[int, Meta(ge=1, le=MAX_ID, description="The id of a task, as list_tasks gives it")]


class OneTask(Struct, frozen=True, forbid_unknown_fields=True):
    task_id: TaskId


class UpdateTask(Struct, frozen=True, forbid_unknown_fields=True):
    task_id: TaskId
    title: TaskTitle | UnsetType = UNSET
    description: TaskDescription | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET


async def add_task(session: AsyncSession, user_id: str, call: AddTask) -> Task:
    return await TaskService(session).add(user_id, NewTask(title=call.title, description=call.description))


async def list_tasks(session: AsyncSession, user_id: str, call: ListTasks) -> Page[Task]:
    return await TaskService(session).page(user_id, status=call.status, limit=LIST_LIMIT, cursor=call.cursor)


async def complete_task(session: AsyncSession, user_id: str, call: OneTask) -> Task:
    return await TaskService(session).complete(user_id, call.task_id)


async def delete_task(session: AsyncSession, user_id: str, call: OneTask) -> Task:
    return await TaskService(session).remove(user_id, call.task_id)


async def update_task(session: AsyncSession, user_id: str, call: UpdateTask) -> Task:
    description = None if call.description == "" else call.description  # models are not offered null
    changes = TaskChanges(title=call.title, description=description, completed=call.completed)
    return await TaskService(session).change(user_id, call.task_id, changes)


TASK_TOOLS: tuple[Tool[Any], ...] = (
    Tool(
        name="add_task",
        title="Add a task",
        description="Add a task to the user's list.",
        arguments=AddTask,
        result=Task,
        run=add_task,
        act="task.added",
    ),
    Tool(
        name="list_tasks",
        title="List tasks",
        description=f"The user's tasks by id, {LIST_LIMIT} to a page.",
        arguments=ListTasks,
        result=Page[Task],
        run=list_tasks,
        read_only=True,
        idempotent=True,
    ),
    Tool(
        name="complete_task",
        title="Complete a task",
        description="Mark a task as completed.",
        arguments=OneTask,
        result=Task,
        run=complete_task,
        idempotent=True,
        act="task.completed",
    ),
    Tool(
        name="delete_task",
        title="Delete a task",
        description="Delete a task for good; the result is the task as it was.",
        arguments=OneTask,
        result=Task,
        run=delete_task,
        destructive=True,
        idempotent=True,
        act="task.deleted",
    ),
    Tool(
        name="update_task",
        title="Change a task",
        description="Change a task's title or description (an empty one takes it away), "
        "or reopen it with completed = false.",
        arguments=UpdateTask,
        result=Task,
        run=update_task,
        destructive=True,
        idempotent=True,
        act="task.changed",
    ),
)
