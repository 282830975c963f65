"""Tasks as callers and models see them."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from chatapi.text import NO_NUL, NOT_BLANK

TaskTitle = Annotated[str, Meta(min_length=1, max_length=200, pattern=NOT_BLANK, examples=["Buy milk"])]
TaskDescription = Annotated[str, Meta(max_length=2_000, pattern=NO_NUL, examples=["Oat, if they have it"])]
TaskStatus = Literal["all", "pending", "completed"]


class Task(Struct, frozen=True, kw_only=True):
    id: int
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime

    @property
    def subject(self) -> dict[str, int]:
        return {"task_id": self.id}


class TaskContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The members of a task that its tool and its routes take when it is added."""

    title: TaskTitle
    description: TaskDescription | None = None


class NewTask(TaskContent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to add, or (PUT) a task's new content; a member that is left out takes its default."""

    completed: bool = False


class TaskChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The changes to a task; a member that is left out stays as it is."""

    title: TaskTitle | UnsetType = UNSET
    description: TaskDescription | UnsetType | None = UNSET
    completed: bool | UnsetType = UNSET
