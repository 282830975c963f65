"""Looks up what was said before, in all of the user's conversations."""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import UNSET

from chatapi.offline.desk import Desk
from chatapi.offline.intents import SearchSaid
from chatapi.offline.text import quote
from chatapi.offline.understanding import TooMuch, understand

MOST_SHOWN = 5
FOUND = (
    "This is what I found about "  # the beginning of an answer, by which the answer is left out of later ones
)


class Searching:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def answer(self, intent: SearchSaid) -> str:
        call = await self._desk.search(intent.text)
        if call.error is not UNSET:
            return f"I couldn't search for {quote(intent.text)}: {call.error}"
        items = call.result.get("items", ()) if isinstance(call.result, dict) else ()
        lines = [line for item in items if not is_such_a_question(item) for line in shown(item)]
        if not lines:
            return f"I found nothing about {quote(intent.text)} in your conversations."
        return f"{FOUND}{quote(intent.text)}:\n" + "\n".join(lines[:MOST_SHOWN])


def is_such_a_question(item: Mapping[str, Any]) -> bool:
    """Whether the message is a question like the one that is answered, or an answer to one."""
    said = str(item["snippet"])
    if item["role"] == "assistant":
        return said.startswith(FOUND)
    try:
        return any(isinstance(clause.intent, SearchSaid) for clause in understand(said))
    except TooMuch:
        return False


def shown(item: Mapping[str, Any]) -> Iterator[str]:
    who = "you" if item["role"] == "user" else "I"
    where = f" in {quote(item['title'])}" if item["title"] else ""
    yield f"- on {str(item['created_at'])[:10]}{where}, {who} said: {quote(str(item['snippet']))}"
