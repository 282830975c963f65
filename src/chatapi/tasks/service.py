"""The one place where tasks are read and changed; REST, the assistant's tools and MCP all come here."""

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import delete, insert, update

from chatapi.db import models
from chatapi.db.paging import Id, Page, decode_cursor, page_of
from chatapi.db.services import Service, insert_for_user
from chatapi.errors.domains import TaskNotFound
from chatapi.tasks.schemas import NewTask, Task, TaskChanges, TaskStatus


class TaskService(Service[models.Task, "TaskService.Repository"]):
    """Every method takes the owner first and raises `TaskNotFound` for a task that is not theirs."""

    class Repository(SQLAlchemyAsyncRepository[models.Task]):
        model_type = models.Task

    repository_type = Repository

    async def add(self, user_id: str, task: NewTask) -> Task:
        row = insert(models.Task).values(user_id=user_id, **msgspec.structs.asdict(task))
        return to_schema(await insert_for_user(self.session, user_id, row.returning(models.Task)))

    async def page(
        self, user_id: str, *, status: TaskStatus = "all", limit: int = 20, cursor: str | None = None
    ) -> Page[Task]:
        """Tasks by id, ascending."""
        filters = [models.Task.user_id == user_id]
        if status != "all":
            filters.append(models.Task.completed == (status == "completed"))
        if (after := decode_cursor(cursor, Id)) is not None:
            filters.append(models.Task.id > after)
        rows = await self.get_many(
            *filters, order_by=("id", False), statement=self.repository.statement.limit(limit + 1)
        )
        return page_of(rows, limit, to_schema, lambda task: task.id)

    async def read(self, user_id: str, task_id: int) -> Task:
        task = await self.get_one_or_none(models.Task.id == task_id, models.Task.user_id == user_id)
        if task is None:
            raise TaskNotFound(task_id)
        return to_schema(task)

    async def change(self, user_id: str, task_id: int, changes: TaskChanges) -> Task:
        values = {
            name: value
            for name, value in msgspec.structs.asdict(changes).items()
            if value is not msgspec.UNSET
        }
        if not values:
            return await self.read(user_id, task_id)
        return await self._write(user_id, task_id, values)

    async def replace(self, user_id: str, task_id: int, task: NewTask) -> Task:
        return await self._write(user_id, task_id, msgspec.structs.asdict(task))

    async def complete(self, user_id: str, task_id: int) -> Task:
        return await self._write(user_id, task_id, {"completed": True})

    async def remove(self, user_id: str, task_id: int) -> Task:
        """Delete the task; returns it as it was."""
        task = await self.session.scalar(
            delete(models.Task)
            .where(models.Task.id == task_id, models.Task.user_id == user_id)
            .returning(models.Task)
        )
        if task is None:
            raise TaskNotFound(task_id)
        return to_schema(task)

    async def _write(self, user_id: str, task_id: int, values: dict[str, object]) -> Task:
        # One statement, so that two writers at once do not undo each other's columns.
        task = await self.session.scalar(
            update(models.Task)
            .where(models.Task.id == task_id, models.Task.user_id == user_id)
            .values(values)
            .returning(models.Task)
        )
        if task is None:
            raise TaskNotFound(task_id)
        return to_schema(task)


def to_schema(task: models.Task) -> Task:
    return msgspec.convert(task, Task, from_attributes=True)
