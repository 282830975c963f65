"""The assistant's questions: writes each one, and reads it back from the history in the next turn.

The assistant has no memory, so the text of a question must hold all that is needed to carry out the answer. That is
why writing and reading are side by side here.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from chatapi.offline.intents import Verb
from chatapi.offline.known import KnownTask
from chatapi.offline.text import in_words, numbered, quote

ALONE = "- "  # before a task shown alone, which must not renumber the user's list
SHOWN = 20  # lines of a list: nobody reads more
MAY_I = "May I "
OFFER = "Should I add this to your list?"
# The verb, then the verb with "it" as its object; {} is the new title or description.
_PHRASES: dict[Verb, tuple[str, str]] = {
    "complete": ("complete", "complete it"),
    "reopen": ("reopen", "reopen it"),
    "delete": ("delete", "delete it"),
    "rename": ('rename to "{}"', 'rename it to "{}"'),
    "describe": ('describe as "{}"', 'describe it as "{}"'),
}
_CLEARING = ("clear of its description", "clear its description")


class Action(Struct, frozen=True):
    """The change to make once the task is known."""

    verb: Verb
    value: str | None = None

    def wish(self, title: str) -> "Wish":
        match self.verb:
            case "rename":
                return Wish("rename", title, f" to {quote(self.value or '')}")
            case "describe":
                return Wish(f"{'change' if self.value else 'clear'} the description of", title)
        return Wish(self.verb, title)

    def phrase(self, *, it: bool = False) -> str:
        if self.verb == "describe" and self.value is None:
            return _CLEARING[it]
        return _PHRASES[self.verb][it].replace("{}", self.value or "")


class Wish(Struct, frozen=True):
    """A call that needs its user's approval, in words: what it does, to the task of this title."""

    doing: str
    title: str = ""
    rest: str = ""


class Question(Struct, frozen=True):
    """A question of the last answer: `lines` are its candidates as numbered there; `total` is their number.

    `kind` is "which" (choose among them), "yes" (do it to all of them) or "offer" (add them; no action).
    """

    kind: str
    lines: tuple[str, ...]
    total: int
    action: Action | None = None


def ask_which(action: Action, candidates: Sequence[KnownTask]) -> str:
    return f"Which one should I {action.phrase()}?\n{list_lines(candidates)}"


def ask_if_meant(action: Action, task: KnownTask) -> str:
    return f'Did you mean {quote(task.label)}? Say "yes" and I\'ll {action.phrase(it=True)}.'


def ask_to_delete(tasks: Sequence[KnownTask], *, whole_list: bool) -> str:
    which = "this task" if len(tasks) == 1 else f"{'all' if whole_list else 'these'} {len(tasks)} tasks"
    return f'That would delete {which}. Say "yes, delete all" and I\'ll do it.\n{list_lines(tasks)}'


def ask_to_add(titles: Sequence[str]) -> str:
    return f"{OFFER}\n{numbered(titles)}"


def ask_to_allow(wishes: Sequence[Wish]) -> str:
    """The request that goes with calls which need their user's approval; an answer in words is none."""
    return f"{MAY_I}{_doings(wishes)}?"


def leave_undone(wishes: Sequence[Wish]) -> str:
    return f"OK, I didn't {_doings(wishes)}."


def _doings(wishes: Sequence[Wish]) -> str:
    titles: dict[tuple[str, str], list[str]] = {}
    for wish in wishes:
        titles.setdefault((wish.doing, wish.rest), []).extend([quote(wish.title)] if wish.title else [])
    return in_words(
        f"{doing} {_some(named)}{rest}" if named else doing for (doing, rest), named in titles.items()
    )


def _some(titles: Sequence[str]) -> str:
    return in_words(titles if len(titles) <= SHOWN else [*titles[:SHOWN], f"{len(titles) - SHOWN} more"])


def asks_for_approval(content: str) -> bool:
    """Whether an answer ends with `ask_to_allow`."""
    return content.rpartition("\n")[2].startswith(MAY_I)


def list_lines(tasks: Sequence[KnownTask]) -> str:
    """The tasks numbered from 1, up to `SHOWN`, and how many more there are."""
    lines = numbered([task.label for task in tasks[:SHOWN]])
    return lines if len(tasks) <= SHOWN else f"{lines}\n…and {len(tasks) - SHOWN} more."


# --- reading back -----------------------------------------------------------------------------------------------------


def _reading(phrase: str) -> str:
    return re.escape(phrase).replace(r"\{\}", "(?P<value>.*)")


_LINE = re.compile(r"(\d{1,3})\. (.*)")
_MORE = re.compile(r"…and (\d+) more\.")
_DELETING = re.compile(r"That would delete (?:(?:all|these) \d+ tasks|this task)\. Say .*")
_MEANT = re.compile(r'(?:.* )?Did you mean "(?P<label>.*)"\? Say "yes" and I\'ll (?P<phrase>.*)\.')
_WHICH = re.compile(r"(?:.* )?Which one should I (?P<phrase>.*)\?")
_ACTIONS = [
    *((re.compile(_reading(phrase)), verb) for verb, phrases in _PHRASES.items() for phrase in phrases),
    *((re.compile(phrase), "describe") for phrase in _CLEARING),
]


def last_question(content: str) -> Question | None:
    """The question that an answer ends with, or None."""
    lines = content.split("\n")
    for place in range(len(lines) - 1, -1, -1):
        candidates, total = read_list(lines[place + 1 :])
        if question := _question(lines[place], candidates, total):
            return question
    return None


def _question(line: str, candidates: tuple[str, ...], total: int) -> Question | None:
    if line.startswith(MAY_I):  # whatever the titles in it say
        return None
    if line == OFFER:
        return Question("offer", candidates, total)
    if _DELETING.fullmatch(line):
        return Question("yes", candidates, total, Action("delete"))
    if found := _MEANT.fullmatch(line):
        return Question("yes", (found["label"],), 1, _action(found["phrase"]))
    if found := _WHICH.fullmatch(line):
        return Question("which", candidates, total, _action(found["phrase"]))
    return None


def _action(phrase: str) -> Action | None:
    for pattern, verb in _ACTIONS:
        if found := pattern.fullmatch(phrase):
            return Action(verb, found.groupdict().get("value"))
    return None


def read_list(lines: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The last numbered list in an answer, and the number of tasks that it stood for."""
    shown: list[str] = []
    more = 0
    for line in lines:
        if found := _LINE.fullmatch(line):
            shown, more = ([*shown, found[2]], 0) if int(found[1]) == len(shown) + 1 else ([found[2]], 0)
        elif found := _MORE.fullmatch(line):
            more = int(found[1])
    return tuple(shown), len(shown) + more
