"""Quotes earlier messages from the history, which is all that the assistant can see."""

import re

from chatapi.offline.intents import Recall, RecallTouched
from chatapi.offline.recollection import Recollection
from chatapi.offline.text import clean, counted, in_words, quote

MOST_QUOTED = 10  # of the user's messages, if asked for all
_NAME = re.compile(
    r"(?:my name is|my name's|call me|i am called|i'm called) (?P<name>[\w'-]+(?: [A-Z][\w'-]+)?)", re.I
)
_PLACES = {0: "first", 1: "second", 2: "third", 3: "fourth", 4: "fifth"}
_TOLD = {"add_task": "added", "delete_task": "deleted", "complete_task": "completed"}


class Remembering:
    def __init__(self, recollection: Recollection) -> None:
        self._recollection = recollection

    def nth(self, intent: Recall) -> str:
        """Quote a message, and say how far back the history goes."""
        mine = intent.who == "assistant"
        said = self._recollection.said_by_assistant if mine else self._recollection.said_by_user
        if not said:
            nothing = "I haven't said anything yet."
            return nothing if mine else "That was your first message, as far as I can see."
        if intent.number >= len(said):
            return f"I can only see {counted(len(said), 'earlier message')} of {'mine' if mine else 'yours'}."
        who = "I" if mine else "you"
        if intent.number == -1:
            return f"{who.capitalize()} said: {quote(said[-1])}"
        return f"The {_PLACES[intent.number]} thing {who} said, as far back as I can see: {quote(said[intent.number])}"

    def all(self) -> str:
        said = self._recollection.said_by_user
        if not said:
            return "This is your first message, as far as I can see."
        quoted = "\n".join(f"- {quote(text)}" for text in said[-MOST_QUOTED:])
        return f"As far back as I can see, you said:\n{quoted}"

    def touched(self, intent: RecallTouched) -> str:
        told = _TOLD[intent.tool]
        tasks = self._recollection.touched_with(intent.tool)
        if not tasks:
            return f"I can't see that anything was {told} in this conversation."
        return f"Last {told}: {in_words(quote(task.title) for task in tasks)}."

    def name(self) -> str:
        for text in reversed(self._recollection.said_by_user):
            if found := _NAME.search(clean(text)):
                return f"You told me: {found['name']}."
        return "You haven't told me your name, as far back as I can see."
