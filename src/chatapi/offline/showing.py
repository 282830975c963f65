"""Lists, counts and finds tasks, and changes nothing."""

from collections.abc import Sequence

from chatapi.offline.desk import Desk
from chatapi.offline.intents import (
    CountTasks,
    Everything,
    FindTasks,
    ListTasks,
    Named,
    Nothing,
    Position,
    ShowTask,
)
from chatapi.offline.known import KnownTask
from chatapi.offline.matching import suggestions
from chatapi.offline.questions import ALONE, Action, list_lines
from chatapi.offline.recollection import Recollection
from chatapi.offline.resolution import WHOLE_LIST_HINT, Resolver, Unclear, matches_all
from chatapi.offline.text import counted, in_words, quote

_OF_STATUS = {"all": "task", "pending": "open task", "completed": "completed task"}
_NONE = {
    "all": 'Your list is empty. Try "add milk to my list".',
    "pending": 'You have no open tasks. Say "show completed" for what is done, or add something new.',
    "completed": "You haven't completed any tasks yet.",
}


class Showing:
    def __init__(self, recollection: Recollection, desk: Desk) -> None:
        self._recollection = recollection
        self._desk = desk

    async def list(self, intent: ListTasks) -> str:
        tasks, complete = await self._desk.tasks(intent.status)
        if not tasks:
            return _NONE[intent.status]
        number = _number(tasks, _OF_STATUS[intent.status], complete=complete)
        return f"You have {number}:\n{list_lines(tasks)}"

    async def count(self, intent: CountTasks) -> str:
        tasks, complete = await self._desk.tasks(intent.status)
        if not tasks:
            return _NONE[intent.status]
        said = f"You have {_number(tasks, _OF_STATUS[intent.status], complete=complete)}"
        done = sum(task.completed for task in tasks)
        if intent.status != "all":
            return f"{said}."
        return f"{said}: {len(tasks) - done} open and {done} done."

    async def find(self, intent: FindTasks) -> str:
        return self._found(intent.text, (await self._desk.tasks())[0])

    async def show(self, intent: ShowTask) -> str:
        target = intent.targets[0]
        tasks, _ = await self._desk.tasks()
        match target:
            case Named():
                return self._found(target.text, tasks)
            case Position():
                try:
                    resolver = Resolver(self._recollection, self._desk, Action("complete"))
                    resolved = await resolver.resolve(target)
                except Unclear as problem:
                    return problem.words
                wanted: Sequence[KnownTask] = resolved.tasks
            case Everything() | Nothing():
                wanted = tasks
            case _:
                wanted = self._recollection.meant_by_it()
        ids = {task.id for task in wanted}
        return _told([task for task in tasks if task.id in ids])

    def _found(self, text: str, tasks: Sequence[KnownTask]) -> str:
        if found := matches_all(text, tasks):
            return _told(found)
        missing = f"I can't find a task like {quote(text.strip(chr(34)))}."
        if alike := suggestions(text, tasks):
            return f"{missing} The closest: {in_words(quote(task.title) for task in alike)}."
        return missing


def _told(tasks: Sequence[KnownTask]) -> str:
    if not tasks:
        return f"I can't find that task. {WHOLE_LIST_HINT}"
    if len(tasks) > 1:
        return f"I found {counted(len(tasks), 'task')}:\n{list_lines(tasks)}"
    (task,) = tasks
    found = f"I found this task, {'done' if task.completed else 'still open'}:\n{ALONE}{task.label}"
    return f"{found}\nIts description: {quote(task.description)}." if task.description else found


def _number(tasks: Sequence[KnownTask], noun: str, *, complete: bool) -> str:
    return counted(len(tasks), noun) if complete else f"more than {counted(len(tasks), noun)}"
