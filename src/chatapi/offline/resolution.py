"""Finds the tasks of targets: "it" and "the second one" in the conversation, names in the list."""

from collections.abc import Sequence

from msgspec import Struct

from chatapi.offline.desk import Desk
from chatapi.offline.intents import Everything, It, Named, Nothing, Position, Target, Them, TheOther
from chatapi.offline.known import KnownTask
from chatapi.offline.matching import matches, suggestions
from chatapi.offline.questions import Action, ask_if_meant, ask_which
from chatapi.offline.recollection import Recollection
from chatapi.offline.targets import parse_targets
from chatapi.offline.text import counted, is_quoted, quote, unglue, words

WHOLE_LIST_HINT = 'Say "show my tasks" to see them.'


class Unclear(Exception):
    """It is not clear which task is meant; the text says so, or asks."""

    def __init__(self, words: str, *, asks: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.asks = asks


class Resolved(Struct, frozen=True):
    """The tasks that are meant; `many`: the user said "all" of something, so deleting needs confirmation."""

    tasks: tuple[KnownTask, ...]
    many: bool = False


class Resolver:
    """Finds out which tasks are meant for an action; raises `Unclear` rather than guess."""

    def __init__(self, recollection: Recollection, desk: Desk, action: Action) -> None:
        self._recollection = recollection
        self._desk = desk
        self._action = action
        self._all: list[KnownTask] | None = None

    async def resolve(self, target: Target) -> Resolved:
        match target:
            case Position():
                return Resolved((await self._at(target),))
            case It():
                return Resolved((await self._touched(),))
            case Them():
                return self._together()
            case TheOther():
                return Resolved((self._other(),))
            case Named():
                return Resolved((await self._named(target),))
            case Everything():
                return await self._everything(target)
            case Nothing():
                raise await self._which_of_all()

    async def apart(self, targets: Sequence[Target]) -> list[Target]:
        """The targets, with "milk and bread" split in two unless a task has that title."""
        found: list[Target] = []
        for target in targets:
            if isinstance(target, Named) and target.parts and not matches(target.text, await self.tasks()):
                found += [one for part in target.parts for one in parse_targets(part)]
            else:
                found.append(target)
        return found

    def already(self, task: KnownTask) -> bool:
        """Whether the list, as just read, shows that nothing is left to do."""
        return any(task.id == other.id and not self._fits(other) for other in self._all or ())

    async def tasks(self) -> list[KnownTask]:
        """All tasks, read once."""
        if self._all is None:
            self._all, _ = await self._desk.tasks()
        return self._all

    # --- by the conversation ------------------------------------------------------------------------------------------

    async def _at(self, position: Position) -> KnownTask:
        number = position.number
        added = self._recollection.just_added()
        if position.ordinal and len(added) > 1 and abs(number) <= len(added):
            return _pick(added, number)
        tasks = self._recollection.latest_list() or (added if position.ordinal else [])
        tasks = tasks or await self.tasks()
        if not tasks:
            raise Unclear("Your list is empty.")
        if not 0 < abs(number) <= len(tasks):
            raise Unclear(f"There is no number {number}: that list has {counted(len(tasks), 'task')}.")
        return _pick(tasks, number)

    async def _touched(self) -> KnownTask:
        tasks = self._recollection.meant_by_it()
        if len(tasks) > 1:
            ids = {task.id for task in tasks}
            still = [task for task in await self.tasks() if task.id in ids]
            raise Unclear(ask_which(self._action, still or tasks), asks=True)
        if not tasks:
            raise Unclear(f"I'm not sure which task you mean. {WHOLE_LIST_HINT}")
        return tasks[0]

    def _together(self) -> Resolved:
        tasks = self._recollection.shown_together()
        if not tasks:
            raise Unclear(f"I'm not sure which tasks you mean. {WHOLE_LIST_HINT}")
        return Resolved(tuple(tasks), many=len(tasks) > 1)

    def _other(self) -> KnownTask:
        touched = {task.id for task in self._recollection.meant_by_it()}
        others = [task for task in self._recollection.latest_list() if task.id not in touched]
        if len(others) != 1:
            raise Unclear(f"I'm not sure which other one you mean. {WHOLE_LIST_HINT}")
        return others[0]

    # --- by the list --------------------------------------------------------------------------------------------------

    async def _named(self, target: Named) -> KnownTask:
        if found := matches(target.text, await self.tasks()):
            return self._only(found)
        raise self._not_found(target.text, await self.tasks())

    def _only(self, found: Sequence[KnownTask]) -> KnownTask:
        """The one task that fits the action: of two with the same title, one may be done and the other not."""
        fitting = [task for task in found if self._fits(task)] or list(found)
        if len(fitting) > 1:
            raise Unclear(ask_which(self._action, fitting), asks=True)
        return fitting[0]

    def _fits(self, task: KnownTask) -> bool:
        if self._action.verb == "complete":
            return not task.completed
        return task.completed or self._action.verb != "reopen"

    def _not_found(self, name: str, tasks: Sequence[KnownTask]) -> Unclear:
        missing = f"I can't find a task like {quote(unglue(name).strip(chr(34)))}."
        alike = [task for task in suggestions(name, tasks) if self._fits(task)]
        if len(alike) == 1:
            return Unclear(f"{missing} {ask_if_meant(self._action, alike[0])}", asks=True)
        if alike:
            return Unclear(f"{missing} {ask_which(self._action, alike)}", asks=True)
        return Unclear(f"{missing} {WHOLE_LIST_HINT}" if tasks else f"{missing} Your list is empty.")

    async def _which_of_all(self) -> Unclear:
        fitting = [task for task in await self.tasks() if self._fits(task)]
        if not fitting:
            return Unclear(f"There is nothing to {self._action.verb}.")
        return Unclear(ask_which(self._action, fitting), asks=True)

    async def _everything(self, target: Everything) -> Resolved:
        tasks = [task for task in await self.tasks() if target.status in ("all", _status(task))]
        if self._action.verb in ("complete", "reopen"):
            tasks = [task for task in tasks if self._fits(task)]
        if target.about:
            tasks = matches_all(target.about, tasks)
        for exception in target.but:
            spared = {task.id for task in (await self.resolve(exception)).tasks}
            tasks = [task for task in tasks if task.id not in spared]
        if not tasks:
            raise Unclear(f"There is nothing to {self._action.verb}.")
        return Resolved(tuple(tasks), many=True)


def matches_all(text: str, tasks: Sequence[KnownTask]) -> list[KnownTask]:
    """Every task whose title has the words, including tasks of exactly that title."""
    exact = {task.id for task in matches(text, tasks)}
    wanted = set() if is_quoted(text) else set(words(text))
    return [task for task in tasks if task.id in exact or (wanted and wanted <= set(words(task.title)))]


def _pick(tasks: Sequence[KnownTask], number: int) -> KnownTask:
    return tasks[number - 1 if number > 0 else number]


def _status(task: KnownTask) -> str:
    return "completed" if task.completed else "pending"
