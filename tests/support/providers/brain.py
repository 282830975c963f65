"""The model behind all the fakes: it carries out the commands in the user's message, through whichever API they come."""

import asyncio
import base64
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal[
    "stop", "calls", "length", "filter", "malformed", "cut", "drop", "garbage", "overloaded", "hang"
]


TEXT_FILES = re.compile(r"<file .*?</file>\s*", re.S)
EMBEDDED = {"image/png": b"\x89PNG", "application/pdf": b"%PDF-"}


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
    """An answer and its end: `cut` ends cleanly in the middle, `drop` closes the connection, and `hang` never ends."""

    pieces: tuple[Thought | Text | Call, ...]
    finish: Finish

    @property
    def calls(self) -> list[Call]:
        return [piece for piece in self.pieces if isinstance(piece, Call)]


def check_embedded(data: str, begins: bytes) -> None:
    """Refuse what is not base64 of a file that begins so."""
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError:
        content = b""
    if not content.startswith(begins):
        raise Refused(400, "Invalid base64 of a file")


class Refused(Exception):
    """An error response. `delay` is in seconds; each API reports it in its own way."""

    def __init__(self, status: int, message: str, delay: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.delay = delay


@dataclass(frozen=True)
class Asked:
    """A request of any format: `message` is the user's last, and `steps` counts the answers with calls to it."""

    model: str
    message: str
    steps: int
    tools: dict[str, dict[str, Any]]  # names, with the JSON Schemas of the parameters


@dataclass
class Brain:
    """Carries out the commands in the user's message, one a line.

    `say TEXT` and `think TEXT` send text, `call TOOL {JSON}` calls a tool; calls on successive lines are made together.
    The lines after calls are for the next request; the last request says "Done." if no line is left. `sleep SECONDS` delays
    the response, and `meet NUMBER` until so many requests wait for each other. `status CODE [DELAY] [xTIMES]` refuses (so many times). `only MODEL COMMAND` is for one model. `end HOW`
    ends the response in one of the ways of `Finish`, `silent TIMES` without text. `again TOOL` calls the tool for ever,
    `broken TOOL` with half of a JSON. Anything else is echoed.
    """

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: int = 0
    asleep: int = 0
    meetings: dict[int, asyncio.Barrier] = field(default_factory=dict)

    async def reply(self, asked: Asked) -> Reply:
        pieces: list[Thought | Text | Call] = []
        finish: Finish = "stop"
        for line in self._lines(asked):
            command, _, rest = line.partition(" ")
            match command:
                case "sleep":
                    self.asleep += 1
                    try:
                        await asyncio.sleep(float(rest))
                    finally:
                        self.asleep -= 1
                case "meet":
                    await self.meetings.setdefault(int(rest), asyncio.Barrier(int(rest))).wait()
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
        message = TEXT_FILES.sub("", asked.message)  # a model takes no orders from files
        for each in message.splitlines() or ["say Seen."]:
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
        """The call as a bad model would make it: if the tool has a parameter for a user's id, it gives another user's."""
        values = json.loads(arguments)
        for offered in asked.tools.get(name, {}).get("properties", {}):
            if "user" in offered.lower():
                values[offered] = "somebody-else"
        return Call(self._id(), name, json.dumps(values))

    def _id(self) -> str:
        self.calls += 1
        return f"call_{self.calls:06}"

    def _times(self, asked: Asked) -> int:
        """The number of times that this has been asked, including this one."""
        self.asked[asked.model, asked.message] += 1
        return self.asked[asked.model, asked.message]

    def _refuse(self, asked: Asked, rest: str) -> None:
        status, *options = rest.split()
        times = next((int(each[1:]) for each in options if each.startswith("x")), None)
        delay = next((float(each) for each in options if not each.startswith("x")), None)
        if times is None or self._times(asked) <= times:
            raise Refused(int(status), "secret-of-the-provider https://internal.example/key", delay)


def words(text: str) -> list[str]:
    """The pieces of a text, as a stream sends them."""
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]


def thirds(text: str) -> list[str]:
    """The pieces of a call's arguments, as a stream sends them. No piece is valid JSON by itself."""
    third = len(text) // 3 + 1
    return [text[start : start + third] for start in range(0, len(text), third)]
