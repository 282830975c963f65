"""Recalls tasks from the conversation: the history is the assistant's only memory."""

from collections.abc import Iterator, Sequence

from chatapi.agent.ports import HistoryMessage, ToolCall
from chatapi.offline.known import KnownTask, listings_of, tasks_of, touched_by
from chatapi.offline.questions import ALONE, Question, last_question, read_list


class Recollection:
    """A view of messages, oldest first; the last may be the unfinished answer."""

    def __init__(self, messages: Sequence[HistoryMessage]) -> None:
        self._messages = messages

    @property
    def said_by_user(self) -> list[str]:
        return [message.content for message in self._messages if message.role == "user"]

    @property
    def said_by_assistant(self) -> list[str]:
        return [each.content for each in self._messages if each.role == "assistant" and each.content]

    def question(self) -> tuple[Question, list[KnownTask]] | None:
        """The last answer's question, and the tasks it asks about (none if they are not certain)."""
        if not self._messages or (question := last_question(self._messages[-1].content)) is None:
            return None
        candidates = _placed(question.lines, question.total, self._messages[-1].tool_calls)
        return question, candidates if len(candidates) == question.total else []

    def latest_list(self) -> list[KnownTask]:
        """The tasks as last numbered for the user, then those added since, as a new list would have them."""
        since: list[tuple[ToolCall, KnownTask]] = []
        for message in reversed(self._messages):
            if listed := shown_list(message):
                gone = {task.id for call, task in since if call.name == "delete_task"}
                left_out = gone | {task.id for task in listed}
                added = (task for call, task in since if call.name == "add_task")
                return listed + [task for task in added if task.id not in left_out]
            since = touched_by(message.tool_calls) + since
        return []

    def shown_together(self) -> list[KnownTask]:
        """The tasks listed or touched last, several at once if there were any."""
        alone: list[KnownTask] = []
        for message in reversed(self._messages):
            touched = touched_by(message.tool_calls)
            left = {task.id: task for call, task in touched if call.name != "delete_task"}
            tasks = shown_list(message) or list(left.values())
            if len(tasks) > 1:
                return tasks
            alone = alone or tasks
        return alone

    def just_added(self) -> list[KnownTask]:
        """The tasks of the last addition, if it came after the latest list and nothing was done since."""
        for message in reversed(self._messages):
            if shown_list(message):
                return []
            if touched := touched_by(message.tool_calls):
                return [task for call, task in touched if call.name == "add_task"]
        return []

    def last_changes(self) -> list[tuple[ToolCall, KnownTask]]:
        """The changes of the last answer that made any, in order."""
        for message in reversed(self._messages):
            if touched := touched_by(message.tool_calls):
                return touched
        return []

    def meant_by_it(self) -> list[KnownTask]:
        """The task last touched or shown alone; several if one answer touched several."""
        for message in reversed(self._messages):
            if touched := touched_by(message.tool_calls):
                return list({task.id: task for _, task in touched}.values())
            if len(shown := shown_list(message) or shown_alone(message)) == 1:
                return shown
        return []

    def touched_with(self, tool: str) -> list[KnownTask]:
        """The tasks of the last answer that used the tool."""
        for message in reversed(self._messages):
            if tasks := [task for call, task in touched_by(message.tool_calls) if call.name == tool]:
                return tasks
        return []

    def deleted(self) -> list[KnownTask]:
        """Every task deleted in the visible history, the latest first."""
        return [task for call, task in self._changes_backwards() if call.name == "delete_task"]

    def before(self, call: ToolCall, task_id: int) -> KnownTask | None:
        """The task as it was last known before a call."""
        calls = [call for message in self._messages for call in message.tool_calls]
        earlier = calls[: next(place for place, other in enumerate(calls) if other is call)]
        known = (task for other in reversed(earlier) for task in tasks_of(other) if task.id == task_id)
        return next(known, None)

    def _changes_backwards(self) -> Iterator[tuple[ToolCall, KnownTask]]:
        for message in reversed(self._messages):
            yield from reversed(touched_by(message.tool_calls))


def shown_list(message: HistoryMessage) -> list[KnownTask]:
    """The tasks behind an answer's last numbered list, including those beyond its last line."""
    if message.role == "user":
        return []
    return _placed(*read_list(message.content.split("\n")), message.tool_calls)


def shown_alone(message: HistoryMessage) -> list[KnownTask]:
    """The task shown alone in an answer, if there is one."""
    lines = [line.removeprefix(ALONE) for line in message.content.split("\n") if line.startswith(ALONE)]
    return _placed(lines, 1, message.tool_calls) if len(lines) == 1 else []


def _placed(lines: Sequence[str], total: int, calls: Sequence[ToolCall]) -> list[KnownTask]:
    """The tasks behind these lines, if a list read in the same answer has them in this order; else none."""
    for listing in reversed(listings_of(calls)):
        remaining = iter(listing.tasks)
        found = [task for line in lines if (task := next((t for t in remaining if t.label == line), None))]
        if lines and len(found) == len(lines):
            return list(listing.tasks) if total == len(listing.tasks) else found
    return []
