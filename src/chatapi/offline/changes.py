"""Carries out changes of tasks and reports the outcome: only a change that a tool confirmed is called done."""

from collections.abc import Iterable, Sequence

from chatapi.agent.ports import ToolCall
from chatapi.offline.desk import Desk, Outcome
from chatapi.offline.intents import (
    Add,
    Change,
    Correct,
    Did,
    Everything,
    It,
    Named,
    NotDone,
    Position,
    Target,
    Them,
    Verb,
)
from chatapi.offline.known import KnownTask
from chatapi.offline.matching import matches
from chatapi.offline.questions import (
    SHOWN,
    Action,
    Question,
    ask_if_meant,
    ask_to_delete,
    ask_which,
    leave_undone,
)
from chatapi.offline.recollection import Recollection
from chatapi.offline.resolution import Resolver, Unclear, matches_all
from chatapi.offline.targets import parse_positions, parse_targets
from chatapi.offline.text import counted, in_words, one_line, quote, words

MOST_ADDED = 50  # by one command: longer lists are pasted by accident
NO_ALARMS = "I keep the list but can't ring at a time, so look in on it."
_SAID: dict[Verb, str] = {"complete": "Completed", "reopen": "Reopened", "delete": "Deleted"}
_STATE: dict[Verb, str] = {"complete": "done", "reopen": "open"}
_BUYING = frozenset({"buy", "get", "pick", "order", "grab"})


class Changes:
    """The changes of one turn; each method carries one out and returns the reply."""

    def __init__(self, recollection: Recollection, desk: Desk) -> None:
        self._recollection = recollection
        self._desk = desk

    async def add(self, intent: Add) -> str:
        if len(intent.titles) > MOST_ADDED:
            count = len(intent.titles)
            return f"That is {count} tasks at once; I take at most {MOST_ADDED}, so I added none."
        outcomes = [await self._desk.add(title, intent.description) for title in intent.titles]
        said = _told("Added", outcomes)
        return f"{said} {NO_ALARMS}" if intent.timed and any(outcome.task for outcome in outcomes) else said

    async def change(self, intent: Change) -> str:
        """Change the tasks that are clear, and report or ask about the others."""
        action = Action(intent.verb, intent.value)
        resolver = Resolver(self._recollection, self._desk, action)
        tasks: dict[int, KnownTask] = {}
        unclear: list[Unclear] = []
        many = False
        for target in await resolver.apart(intent.targets):
            try:
                resolved = await resolver.resolve(target)
            except Unclear as problem:
                unclear.append(problem)
            else:
                tasks |= {task.id: task for task in resolved.tasks}
                many = many or resolved.many
        already = [task for task in tasks.values() if resolver.already(task)]
        left = [task for task in tasks.values() if task not in already]
        said = [f"{_titles(already)} {_are(already)} already {_STATE[action.verb]}."] if already else []
        if left:
            said.append(await self._carry_out(action, left, many=many))
        return "\n".join(said + _words(unclear))

    async def _carry_out(self, action: Action, tasks: Sequence[KnownTask], *, many: bool = False) -> str:
        if self._desk.needs_approval(action):
            if len(tasks) > SHOWN:
                return f"You'd have to allow each of {len(tasks)} changes; I ask for {SHOWN} at most, so I changed nothing."
        elif action.verb == "delete" and many:
            return await self._ask_to_delete(tasks)
        if action.verb == "rename" and len(tasks) > 1:
            return "I can rename only one task at a time, so I changed nothing."
        return _said(action, tasks, [await self._desk.carry_out(action, task) for task in tasks])

    async def _ask_to_delete(self, tasks: Sequence[KnownTask]) -> str:
        # Read the list anew: the next turn takes from it the tasks that "yes" deletes.
        listed, _ = await self._desk.tasks()
        wanted = {task.id for task in tasks}
        current = [task for task in listed if task.id in wanted]
        if not current:
            return "There is nothing left to delete."
        return ask_to_delete(current, whole_list=len(current) == len(listed))

    # --- answers to the assistant's own questions -----------------------------------------------------------------------

    async def confirm(self, question: Question, candidates: Sequence[KnownTask]) -> str:
        """Do what the question asked, after "yes"."""
        if question.kind == "offer":
            return await self.add(Add(question.lines))
        if question.action is None or not candidates:
            return "I can't tell any more which tasks that was about. Please say it again."
        if question.kind == "which" and len(candidates) > 1:
            return f"Please tell me which: a number from 1 to {len(candidates)}, or its title."
        return await self._carry_out(question.action, candidates)

    async def choose(self, question: Question, candidates: Sequence[KnownTask], answer: str) -> str | None:
        """Do what the question asked to the candidate that the answer names; None if it names none."""
        if question.action is None or not candidates or question.kind == "offer":
            return None
        if not (chosen := _chosen(candidates, answer)):
            return None
        all_meant = parse_targets(answer)[0] in (Them(), Everything())
        if len(chosen) > 1 and not all_meant and not parse_positions(answer):
            await self._desk.tasks()
            return ask_which(question.action, chosen)
        return await self._carry_out(question.action, chosen)

    # --- telling what was done ------------------------------------------------------------------------------------------

    async def did(self, intent: Did) -> str:
        """Complete the task that is exactly what the user did; ask if it only may be."""
        tasks = [task for task in (await self._desk.tasks())[0] if not task.completed]
        action = Action("complete")
        things = parse_targets(intent.thing)[0]
        parts = things.parts if isinstance(things, Named) else ()
        for wanted in ([intent.thing], parts):
            same = [_told_of(intent.verbs, thing, tasks) for thing in wanted]
            if same and all(len(found) == 1 for found in same):
                return await self._carry_out(action, [task for found in same for task in found])
        if maybe := _told_of(intent.verbs, intent.thing, tasks) or matches_all(intent.thing, tasks):
            return ask_if_meant(action, maybe[0]) if len(maybe) == 1 else ask_which(action, maybe)
        return "I don't see an open task for that on your list, so I changed nothing."

    async def not_done(self, intent: NotDone) -> str:
        """Reopen the completed tasks; open ones stay open."""
        resolver = Resolver(self._recollection, self._desk, Action("reopen"))
        try:
            found = [task for target in intent.targets for task in (await resolver.resolve(target)).tasks]
        except Unclear as problem:
            return problem.words
        ids = {task.id for task in found}
        current = [task for task in await resolver.tasks() if task.id in ids]
        if done := [task for task in current if task.completed]:
            return await self._carry_out(Action("reopen"), done)
        if not current:
            return "That task is no longer on your list."
        return f"{_titles(current)} {_are(current)} still open, so nothing changed."

    # --- taking back ----------------------------------------------------------------------------------------------------

    async def undo(self) -> str:
        changes = self._recollection.last_changes()
        if not changes:
            return "There is nothing in this conversation that I could undo."
        said = [await self._take_back(call, task) for call, task in reversed(changes)]
        return "\n".join(said)

    async def _take_back(self, call: ToolCall, task: KnownTask) -> str:
        if call.name == "delete_task":
            return await self._add_again(task)
        if call.name == "add_task":
            return await self._carry_out(Action("delete"), [task])
        if call.name == "complete_task":
            return await self._carry_out(Action("reopen"), [task])
        return await self._change_back(call, task)

    async def _change_back(self, call: ToolCall, task: KnownTask) -> str:
        if "completed" in call.arguments:
            action = Action("complete" if call.arguments["completed"] is False else "reopen")
        elif (before := self._recollection.before(call, task.id)) is None:
            return f"I can't see any more what {quote(task.title)} was before, so I left it."
        elif "title" in call.arguments:
            action = Action("rename", before.title)
        else:
            action = Action("describe", before.description)
        return await self._carry_out(action, [task])

    async def _add_again(self, task: KnownTask) -> str:
        outcome = await self._desk.add(task.title, task.description)
        if outcome.task is None:
            return outcome.problem
        done = ", and it is open again" if task.completed else ""
        return f"Added {quote(outcome.task.title)} again, as a new entry{done}: what is deleted is gone for good."

    async def restore(self, intent: Change) -> str | None:
        """Add again a task deleted in this conversation, if "bring back milk" means one."""
        deleted = self._recollection.deleted()
        target = intent.targets[0]
        if isinstance(target, Named):
            found = matches(target.text, deleted)
        else:
            last = self._recollection.last_changes()
            found = [task for call, task in last if isinstance(target, It) and call.name == "delete_task"]
        return await self._add_again(found[0]) if found else None

    async def correct(self, intent: Correct) -> str:
        """Undo the last change and do it to another task."""
        changes = self._recollection.last_changes()
        call, task = changes[-1]
        if call.name == "add_task":
            action = Action("rename", _title(intent.text))
            return await self._carry_out(action, [task])
        action = _action_of(call)
        try:
            resolver = Resolver(self._recollection, self._desk, action)
            resolved = await resolver.resolve(_other_than(intent.text))
        except Unclear as problem:
            if action.verb == "rename" and not problem.asks:  # the user corrects the new title
                return await self._carry_out(Action("rename", _title(intent.text)), [task])
            return f"I left things as they were. {problem.words}"
        back = await self._take_back(call, task)
        return f"{back}\n{await self._carry_out(action, resolved.tasks, many=resolved.many)}"


def _action_of(call: ToolCall) -> Action:
    if call.name == "complete_task":
        return Action("complete")
    if call.name == "delete_task":
        return Action("delete")
    if "completed" in call.arguments:
        return Action("reopen" if call.arguments["completed"] is False else "complete")
    if "title" in call.arguments:
        return Action("rename", call.arguments["title"])
    return Action("describe", call.arguments.get("description"))


def _told_of(verbs: Sequence[str], thing: str, tasks: Sequence[KnownTask]) -> list[KnownTask]:
    """The tasks whose title is exactly a verb and the thing; after buying it, the thing alone is enough."""
    buying = _BUYING if _BUYING.intersection(verbs) else ()
    titles = [words(f"{verb} {thing}") for verb in (*verbs, *buying)] + [words(thing)] * bool(buying)
    return [task for task in tasks if words(task.title) in titles]


def _other_than(text: str) -> Target:
    return parse_targets(text)[0]


def _title(text: str) -> str:
    return " ".join(text.strip(' "').removeprefix("the ").split())


def _chosen(candidates: Sequence[KnownTask], answer: str) -> list[KnownTask]:
    if positions := parse_positions(answer):
        return _at(candidates, positions)
    target = parse_targets(answer)[0]
    if isinstance(target, Them | Everything):
        return list(candidates)
    return matches(target.text, candidates) if isinstance(target, Named) else []


def _at(candidates: Sequence[KnownTask], positions: Iterable[Position]) -> list[KnownTask]:
    numbers = [place.number for place in positions]
    if not all(0 < abs(number) <= len(candidates) for number in numbers):
        return []
    return [candidates[number - 1 if number > 0 else number] for number in numbers]


def _titles(tasks: Sequence[KnownTask]) -> str:
    shown = [quote(one_line(task.title)) for task in tasks[:SHOWN]]
    return in_words(shown if len(tasks) <= SHOWN else [*shown, f"{len(tasks) - SHOWN} more"])


def _are(tasks: Sequence[KnownTask]) -> str:
    return "is" if len(tasks) == 1 else "are"


def _words(unclear: Sequence[Unclear]) -> list[str]:
    """The unclear points, with only the last of several questions, because the user can answer only one."""
    questions = [problem.words for problem in unclear if problem.asks]
    return [problem.words for problem in unclear if not problem.asks] + questions[-1:]


def _said(action: Action, tasks: Sequence[KnownTask], outcomes: Sequence[Outcome]) -> str:
    if action.verb == "rename" and (task := outcomes[0].task):
        return f"Renamed {quote(tasks[0].title)} to {quote(task.title)}."
    if action.verb == "describe":
        return _told("Updated the description of" if action.value else "Cleared the description of", outcomes)
    return _told(_SAID.get(action.verb, ""), outcomes)


def _told(said: str, outcomes: Sequence[Outcome]) -> str:
    """One sentence for all that worked, then one for each failure."""
    done = [outcome.task for outcome in outcomes if outcome.task]
    denied = [outcome.denied for outcome in outcomes if outcome.denied]
    problems = [outcome.problem for outcome in outcomes if not outcome.task and not outcome.denied]
    if denied:
        problems.insert(0, leave_undone(denied))
    many = f" ({counted(len(done), 'task')})" if len(done) > 4 else ""
    return "\n".join(([f"{said} {_titles(done)}{many}."] if done else []) + problems[:SHOWN])
