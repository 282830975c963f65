"""Tasks over REST."""

from urllib.parse import quote

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from chatapi.audit import name_subject
from chatapi.db.dependencies import service_dependency
from chatapi.db.paging import Page
from chatapi.openapi import PageCursor, PageSize, problems
from chatapi.tasks.schemas import NewTask, Task, TaskChanges, TaskStatus
from chatapi.tasks.service import TaskService


class TaskController(Controller):
    path = "/tasks"
    tags = ("Tasks",)
    dependencies = service_dependency(TaskService, "tasks")

    @get(operation_id="listTasks", summary="List tasks", responses=problems(422))
    async def list_tasks(
        self,
        user_id: FromPath[str],
        tasks: NamedDependency[TaskService],
        status: FromQuery[TaskStatus] = "all",
        limit: PageSize = 20,
        cursor: PageCursor = None,
    ) -> Page[Task]:
        """By id, ascending."""
        return await tasks.page(user_id, status=status, limit=limit, cursor=cursor)

    @post(
        operation_id="addTask",
        summary="Add a task",
        response_headers=[
            ResponseHeader(name="Location", description="The task's path", documentation_only=True)
        ],
        responses=problems(413, 415, 422),
        act="task.added",
    )
    async def add_task(
        self, user_id: FromPath[str], tasks: NamedDependency[TaskService], data: JSONBody[NewTask]
    ) -> Response[Task]:
        task = await tasks.add(user_id, data)
        name_subject(task)
        return Response(task, headers={"Location": f"/api/{quote(user_id, safe='')}/tasks/{task.id}"})

    @get("/{task_id:int}", operation_id="readTask", summary="Read a task", responses=problems(404))
    async def read_task(
        self, user_id: FromPath[str], task_id: FromPath[int], tasks: NamedDependency[TaskService]
    ) -> Task:
        return await tasks.read(user_id, task_id)

    @put(
        "/{task_id:int}",
        operation_id="replaceTask",
        summary="Replace a task",
        responses=problems(404, 413, 415, 422),
        act="task.changed",
    )
    async def replace_task(
        self,
        user_id: FromPath[str],
        task_id: FromPath[int],
        tasks: NamedDependency[TaskService],
        data: JSONBody[NewTask],
    ) -> Task:
        """A member that is left out takes its default: no description, not completed."""
        return await tasks.replace(user_id, task_id, data)

    @patch(
        "/{task_id:int}",
        operation_id="changeTask",
        summary="Change a task",
        responses=problems(404, 413, 415, 422),
        act="task.changed",
    )
    async def change_task(
        self,
        user_id: FromPath[str],
        task_id: FromPath[int],
        tasks: NamedDependency[TaskService],
        data: JSONBody[TaskChanges],
    ) -> Task:
        """A member that is left out stays as it is."""
        return await tasks.change(user_id, task_id, data)

    @patch(
        "/{task_id:int}/complete",
        operation_id="completeTask",
        summary="Complete a task",
        responses=problems(404),
        act="task.completed",
    )
    async def complete_task(
        self, user_id: FromPath[str], task_id: FromPath[int], tasks: NamedDependency[TaskService]
    ) -> Task:
        """Takes no body, and does the same when done again."""
        return await tasks.complete(user_id, task_id)

    @delete(
        "/{task_id:int}",
        operation_id="deleteTask",
        summary="Delete a task",
        responses=problems(404),
        act="task.deleted",
    )
    async def delete_task(
        self, user_id: FromPath[str], task_id: FromPath[int], tasks: NamedDependency[TaskService]
    ) -> None:
        await tasks.remove(user_id, task_id)
