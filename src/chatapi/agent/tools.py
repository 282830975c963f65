"""The registry: each tool is written once, here, for all who offer it.

A tool's arguments are a struct, from which its JSON Schema comes. They never name a user: the caller that binds the
tools passes the owner, so that a model cannot choose whose data is touched. A task's fields are defined in
`tasks.schemas` alone; the arguments are derived from there.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolSpec
from chatapi.agent.schemas import offer
from chatapi.audit import HasSubject, audit
from chatapi.db.database import Work
from chatapi.db.paging import MAX_ID, Page
from chatapi.errors.base import AppError
from chatapi.limits.limiter import Kind
from chatapi.tasks.schemas import NewTask, Task, TaskChanges, TaskContent, TaskStatus
from chatapi.tasks.service import TaskService
from chatapi.text import path_and_message

LIST_LIMIT = 100  # bounds what one call can show a model; the bound of a REST page
ArgumentsT = TypeVar("ArgumentsT", bound=Struct)


class Tool(Struct, Generic[ArgumentsT], frozen=True, kw_only=True):
    """`run` gets a session inside a transaction, the owner and valid arguments, and gives a `result`.

    `read_only`: changes nothing. `destructive`: may remove or overwrite data. `idempotent`: a second call with the same
    arguments changes nothing more. Clients use these to decide whether to ask their user first.
    `act` is its name in the audit trail; a tool that only reads has none. The trail takes the `subject` of the result,
    or of the arguments if there is no result (`audit.HasSubject`).
    `limit` is the rate limit of its own that a call of a user's MCP client counts for. `gives_way` is that of `ToolSpec`.
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
    limit: Kind | None = None
    gives_way: bool = False

    @property
    def spec(self) -> ToolSpec:
        return spec_of_ours(self.name, self.description, self.arguments, self.gives_way)

    async def carry_out(
        self, session: AsyncSession, user_id: str, arguments: dict[str, Any]
    ) -> "ToolOutcome":
        """Run inside a transaction. A bad call is the outcome's `error`; a failure of the service is raised."""
        subject: Mapping[str, int] = {}
        try:
            msgspec.json.encode(arguments)  # `json` accepts lone surrogates, which no database stores
            call = msgspec.convert(arguments, self.arguments)
            subject = subject_of(call)
            result = await self.run(session, user_id, call)
        except UnicodeEncodeError:
            return ToolOutcome(error="The call holds text that is not Unicode.")
        except msgspec.ValidationError as error:
            path, message = path_and_message(error)
            return ToolOutcome(error=f"{path or 'The call'}: {message}")
        except AppError as error:
            if error.status >= 500:
                raise
            return ToolOutcome(error=error.detail, subject=subject)
        return ToolOutcome(
            result=msgspec.to_builtins(result, builtin_types=()), subject=subject_of(result) or subject
        )

    def fault(self, arguments: dict[str, Any]) -> str | None:
        """What is wrong with these arguments."""
        try:
            msgspec.convert(arguments, self.arguments)
        except msgspec.ValidationError as error:
            path, message = path_and_message(error)
            return f"{path or 'The call'}: {message}"
        return None


@cache  # every turn holds all of them
def spec_of_ours(
    name: str,
    description: str,
    arguments: type[Struct],
    gives_way: bool,  # noqa: FBT001 - a key of the cache
) -> ToolSpec:
    return ToolSpec(
        name=name, description=description, parameters=arguments_schema(arguments), gives_way=gives_way
    )


class ToolOutcome(Struct, frozen=True, kw_only=True):
    """`result` (JSON) or `error` (a sentence that the model may act on), and what the call was about."""

    result: Any | UnsetType = UNSET
    error: str | UnsetType = UNSET
    subject: Mapping[str, int] = {}


def subject_of(value: Struct) -> Mapping[str, int]:
    return value.subject if isinstance(value, HasSubject) else {}


async def call_tool(
    tool: Tool[Any],
    user_id: str,
    arguments: dict[str, Any],
    transact: Callable[[Work[ToolOutcome]], Awaitable[Any]],
    **ids: int,
) -> ToolOutcome:
    """Call one of our tools in a transaction made by `transact`, and record it in the audit trail.

    `ids` are recorded in the trail, too.
    """
    outcome = ToolOutcome()

    async def work(session: AsyncSession) -> ToolOutcome:
        nonlocal outcome
        outcome = await tool.carry_out(session, user_id, arguments)
        return outcome

    await transact(work)
    if tool.act is not None:
        done = outcome.error is UNSET
        audit(tool.act, "success" if done else "failure", user_id=user_id, **ids, **outcome.subject)
    return outcome


class ExternalTool(Struct, frozen=True, kw_only=True):
    """A tool whose effect is outside our database, so it must not run inside a transaction.

    `parameters` is a JSON Schema of an object; `call` gives a JSON value or raises `ToolError`. `destructive`: it may
    remove or overwrite something, which is to be assumed of a tool that does not say otherwise (MCP's `ToolAnnotations`).
    """

    name: str
    description: str
    parameters: dict[str, Any]
    call: Callable[[dict[str, Any]], Awaitable[Any]]
    destructive: bool = True

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)


def fault_of_schema(schema: dict[str, Any]) -> str | None:
    """Why this is no JSON Schema (2020-12) of an object."""
    from jsonschema import Draft202012Validator, SchemaError

    if schema.get("type") != "object":
        return 'A tool\'s parameters are an object: {"type": "object", …}.'
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"Is no JSON Schema: {error.message[:200]}"
    return None


def fault_of_arguments(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """What is wrong with these arguments, by a schema that is offered to models (`agent.schemas`).

    It has no references, which could lead out of it, and no patterns, which could take for ever.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(arguments))
    if error is None:
        return None
    return f"{error.json_path.removeprefix('$').lstrip('.') or 'The call'}: {error.message}"


ExternalToolSource: TypeAlias = Callable[[], Mapping[str, ExternalTool]]


def no_external_tools() -> Mapping[str, ExternalTool]:
    return {}


@cache  # takes milliseconds, never changes, and every turn needs all of them
def object_schema(type_: Any) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a struct, with the object itself at the root, as models and MCP require."""
    (schema,), definitions = msgspec.json.schema_components([type_], ref_template="#/$defs/{name}")
    root = definitions.pop(schema["$ref"].rsplit("/", 1)[-1])
    root.pop("title", None)
    root.pop("description", None)
    return {**root, **({"$defs": definitions} if definitions else {})}


@cache
def arguments_schema(type_: Any) -> dict[str, Any]:
    """As `object_schema`, with the few keywords that all model servers understand."""
    return offer(object_schema(type_)).schema


class ListTasks(Struct, frozen=True, forbid_unknown_fields=True):
    status: TaskStatus = "all"
    cursor: Annotated[str | None, Meta(description="next_cursor of the page before")] = None


TaskId = Annotated[int, Meta(ge=1, le=MAX_ID, description="The id of a task, as list_tasks gives it")]


class OneTask(Struct, frozen=True, forbid_unknown_fields=True):
    task_id: TaskId

    @property
    def subject(self) -> dict[str, int]:
        return {"task_id": self.task_id}


MAY_BE_NULL = {field.name for field in msgspec.structs.fields(TaskContent) if field.default is None}


class UpdateTask(TaskChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task_id: TaskId

    @property
    def subject(self) -> dict[str, int]:
        return {"task_id": self.task_id}

    @property
    def changes(self) -> TaskChanges:
        """An empty text clears an optional field, because models are not offered null."""
        changes: dict[str, Any] = {
            name: None if value == "" and name in MAY_BE_NULL else value
            for name, value in msgspec.structs.asdict(self).items()
            if name != "task_id"
        }
        return TaskChanges(**changes)


async def add_task(session: AsyncSession, user_id: str, call: TaskContent) -> Task:
    return await TaskService(session).add(user_id, NewTask(**msgspec.structs.asdict(call)))


async def list_tasks(session: AsyncSession, user_id: str, call: ListTasks) -> Page[Task]:
    return await TaskService(session).page(user_id, status=call.status, limit=LIST_LIMIT, cursor=call.cursor)


async def complete_task(session: AsyncSession, user_id: str, call: OneTask) -> Task:
    return await TaskService(session).complete(user_id, call.task_id)


async def delete_task(session: AsyncSession, user_id: str, call: OneTask) -> Task:
    return await TaskService(session).remove(user_id, call.task_id)


async def update_task(session: AsyncSession, user_id: str, call: UpdateTask) -> Task:
    return await TaskService(session).change(user_id, call.task_id, call.changes)


TASK_TOOLS: tuple[Tool[Any], ...] = (
    Tool(
        name="add_task",
        title="Add a task",
        description="Add a task to the user's list.",
        arguments=TaskContent,
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
