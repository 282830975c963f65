"""The registry: each tool is written once, here, whoever offers it.

A tool's arguments are a struct, from which its JSON Schema comes, and never name a user: the owner is handed in by
whoever bound the tools, so that nothing a model says can change whose data is touched.
"""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolError, ToolSpec
from chatapi.db.paging import MAX_ID, Page
from chatapi.errors import AppError
from chatapi.tasks.schemas import NewTask, Task, TaskChanges, TaskDescription, TaskStatus, TaskTitle
from chatapi.tasks.service import TaskService
from chatapi.text import path_and_message

LIST_LIMIT = 100  # bounds what one call can put before a model; the REST page's own bound
ArgumentsT = TypeVar("ArgumentsT", bound=Struct)


class Tool(Struct, Generic[ArgumentsT], frozen=True, kw_only=True):
    """`run` gets a session inside a transaction, the owner, and arguments that hold.

    `act` is what the audit trail calls it; a tool that only reads has none.
    """

    name: str
    description: str
    arguments: type[ArgumentsT]
    run: Callable[[AsyncSession, str, ArgumentsT], Awaitable[Struct]]
    act: str | None = None

    @property
    def spec(self) -> ToolSpec:
        return spec_of(self)

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


@cache  # milliseconds for what never changes, and every turn needs them all
def spec_of(tool: Tool[Any]) -> ToolSpec:
    (schema,), definitions = msgspec.json.schema_components([tool.arguments], ref_template="#/$defs/{name}")
    parameters = definitions.pop(schema["$ref"].rsplit("/", 1)[-1])
    parameters.pop("title", None)
    parameters.pop("description", None)
    return ToolSpec(
        name=tool.name,
        description=tool.description,
        parameters={**parameters, **({"$defs": definitions} if definitions else {})},
    )


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
    changes = TaskChanges(title=call.title, description=call.description, completed=call.completed)
    return await TaskService(session).change(user_id, call.task_id, changes)


TASK_TOOLS: tuple[Tool[Any], ...] = (
    Tool(
        name="add_task",
        description="Add a task to the user's list.",
        arguments=AddTask,
        run=add_task,
        act="task.added",
    ),
    Tool(
        name="list_tasks",
        description=f"The user's tasks by id, {LIST_LIMIT} to a page.",
        arguments=ListTasks,
        run=list_tasks,
    ),
    Tool(
        name="complete_task",
        description="Mark a task as completed.",
        arguments=OneTask,
        run=complete_task,
        act="task.completed",
    ),
    Tool(
        name="delete_task",
        description="Delete a task for good; the result is the task as it was.",
        arguments=OneTask,
        run=delete_task,
        act="task.deleted",
    ),
    Tool(
        name="update_task",
        description="Change a task's title or description, or reopen it with completed = false.",
        arguments=UpdateTask,
        run=update_task,
        act="task.changed",
    ),
)
