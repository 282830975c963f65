"""The one mind behind all the fakes: it does what the user's message says, whichever API it is asked through."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal[
    "stop", "calls", "length", "filter", "malformed", "cut", "drop", "garbage", "overloaded", "hang"
]


@dataclass(frozen=True)
class Thought:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str

    @property
    def decoded(self) -> Any:
        return json.loads(self.arguments)


@dataclass(frozen=True)
class Reply:
    """What is said, and how it ends. `cut` ends cleanly in the middle, `drop` by closing the connection, and `hang` never."""

    pieces: tuple[Thought | Text | Call, ...]
    finish: Finish

    @property
    def calls(self) -> list[Call]:
        return [piece for piece in self.pieces if isinstance(piece, Call)]


class Refused(Exception):
    """An error response; `delay` is in seconds, and each API tells it in its own way."""

    def __init__(self, status: int, message: str, delay: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.delay = delay


@dataclass(frozen=True)
class Asked:
    """A request, whatever its format: `message` is the user's last, `steps` how often it was answered with calls."""

    model: str
    message: str
    steps: int
    tools: dict[str, dict[str, Any]]  # JSON Schemas of their parameters


@dataclass
class Brain:
    """A command a line.

    `say TEXT` and `think TEXT` are said, `call TOOL {JSON}` is called, calls that stand together at once. After
    calls, the lines below are for the next request; the last says "Done." if nothing is left. `sleep SECONDS` holds
    the response back. `status CODE [DELAY] [xTIMES]` refuses (so many times); `only MODEL COMMAND` holds for one
    model. `end HOW` ends the response in one of the ways of `Finish`, `silent TIMES` without a word. `again TOOL` calls it for ever, `broken TOOL`
    with half of a JSON. Anything else is echoed.
    """

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: int = 0
    asleep: int = 0
    most_asleep: int = 0

    async def reply(self, asked: Asked) -> Reply:
        pieces: list[Thought | Text | Call] = []
        finish: Finish = "stop"
        for line in self._lines(asked):
            command, _, rest = line.partition(" ")
            match command:
                case "sleep":
                    self.asleep += 1
                    self.most_asleep = max(self.most_asleep, self.asleep)
                    try:
                        await asyncio.sleep(float(rest))
                    finally:
                        self.asleep -= 1
                case "status":
                    self._refuse(asked, rest)
                case "silent":
                    if self._times(asked) <= int(rest):
                        return Reply((), "stop")
                case "end":
                    finish = rest  # type: ignore[assignment]
                    break
                case "#":
                    pass
                case _:
                    pieces.append(self._piece(asked, command, rest))
        if finish == "stop" and any(isinstance(piece, Call) for piece in pieces):
            finish = "calls"
        return Reply(tuple(pieces), finish)

    def _piece(self, asked: Asked, command: str, rest: str) -> Thought | Text | Call:
        match command:
            case "say":
                return Text(rest)
            case "think":
                return Thought(rest)
            case "call":
                name, _, arguments = rest.partition(" ")
                return self._call(asked, name, arguments or "{}")
            case "broken":
                return Call(self._id(), rest, '{"title": "mi')
        return Text(f"You said: {command} {rest}")

    def _lines(self, asked: Asked) -> list[str]:
        steps: list[list[str]] = [[]]
        for each in asked.message.splitlines():
            line = each
            if line.startswith("only "):
                _, model, line = line.split(" ", 2)
                if model != asked.model:
                    line = "#"
            if line.startswith("again "):
                return [f"call {line.removeprefix('again ')}"]
            called = steps[-1] and steps[-1][-1].startswith(("call ", "broken "))
            if called and not line.startswith(("call ", "broken ", "end ")):
                steps.append([])
            steps[-1].append(line)
        return steps[asked.steps] if asked.steps < len(steps) else ["say Done."]

    def _call(self, asked: Asked, name: str, arguments: str) -> Call:
        """A model that is offered a user's id fills it in, and with somebody else's."""
        values = json.loads(arguments)
        for offered in asked.tools.get(name, {}).get("properties", {}):
            if "user" in offered.lower():
                values[offered] = "somebody-else"
        return Call(self._id(), name, json.dumps(values))

    def _id(self) -> str:
        self.calls += 1
        return f"call_{self.calls:06}"

    def _times(self, asked: Asked) -> int:
        """How often this has been asked, this time included."""
        self.asked[asked.model, asked.message] += 1
        return self.asked[asked.model, asked.message]

    def _refuse(self, asked: Asked, rest: str) -> None:
        status, *options = rest.split()
        times = next((int(each[1:]) for each in options if each.startswith("x")), None)
        delay = next((float(each) for each in options if not each.startswith("x")), None)
        if times is None or self._times(asked) <= times:
            raise Refused(int(status), "secret-of-the-provider https://internal.example/key", delay)


def words(text: str) -> list[str]:
    """A text in the pieces that a stream sends."""
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]


def thirds(text: str) -> list[str]:
    """A call's arguments in the pieces that a stream sends, which are no JSON of their own."""
    third = len(text) // 3 + 1
    return [text[start : start + third] for start in range(0, len(text), third)]
