"""Finds the tasks that a few words mean. Only words match; similar spelling gives at most a suggestion."""

from collections.abc import Sequence
from difflib import get_close_matches

from chatapi.offline.known import KnownTask
from chatapi.offline.text import is_quoted, one_line, tidy, words

ALIKE = 0.75  # difflib's ratio: one wrong letter in four, as typos in short words make
_MOST_SUGGESTIONS = 3
_LONGEST_TYPO = 60  # characters; difflib is quadratic


def matches(text: str, tasks: Sequence[KnownTask]) -> list[KnownTask]:
    """The tasks with exactly this title, else with exactly these words, else with all of these words among others."""
    literal = is_quoted(text)
    title = one_line(tidy(text)).casefold()
    exact = [task for task in tasks if one_line(task.title).casefold() in (title, one_line(text).casefold())]
    wanted = words(text)
    if exact or literal or not wanted:
        return exact
    same = [task for task in tasks if words(task.title) == wanted]
    return same or [task for task in tasks if set(wanted) <= set(words(task.title))]


def suggestions(text: str, tasks: Sequence[KnownTask]) -> list[KnownTask]:
    """Tasks that might be meant: ask about them, never act on them."""
    wanted = " ".join(words(text[:_LONGEST_TYPO]))
    if not wanted:
        return []
    inside = [task for task in tasks if (title := set(words(task.title))) and title <= set(wanted.split())]
    return (inside or [task for task in tasks if _alike(wanted, task)])[:_MOST_SUGGESTIONS]


def _alike(wanted: str, task: KnownTask) -> bool:
    title = words(task.title[:_LONGEST_TYPO])
    if get_close_matches(wanted, [" ".join(title)], cutoff=ALIKE):
        return True
    return all(len(word) > 2 and get_close_matches(word, title, cutoff=ALIKE) for word in wanted.split())
