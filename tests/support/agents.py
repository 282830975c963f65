"""Fakes of the agent port."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, get_args

import msgspec

from chatapi.agent.ports import (
    AgentEvent,
    File,
    Finish,
    FinishReason,
    ModelUsage,
    OptionName,
    Prompt,
    ReasoningDelta,
    StepStart,
    TextDelta,
    ToolCall,
    Tools,
    ToolSpec,
    Usage,
    Wait,
)
from chatapi.errors.models import ModelFailed


class Gate:
    """A place where an agent waits until its test lets it go on, so that no test has to guess how long something takes."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.waiting = 0


class CommandedAgent:
    """Carries out the commands in the message, one a line, so that a test can write what a model would do.

    `say TEXT`, `write "TEXT"` (as JSON, so it may have several lines), `think TEXT`, `words N` (says so many), `flood N` (five kilobytes each), `sleep SECONDS`, `gate NAME` (waits there), `leave NAME` (waits
    there until it is stopped), `specs` (says the names of its tools), `call TOOL {JSON}`,
    `mute TOOL {JSON}` (calls it without a word), `outside` (a tool of its own), `ask TOOL {JSON}` (calls it, and the answer may come later), `wait` (for
    those answers, in whatever process), `use {JSON}` (of a `ModelUsage`), `step` (an answer of the model begins), `finish REASON`,
    `history` (says the history as JSON), `files` (says the names and the texts, or sizes, of all files), `pid`, `fail`, `crash`, `silence`.
    Any other line is echoed. A command after `once` is carried out only the first time that this user sends it.
    """

    model = "commanded"
    gates: ClassVar[defaultdict[str, Gate]] = defaultdict(Gate)
    seen: ClassVar[list[Prompt]] = []
    specs_seen: ClassVar[list[Sequence[ToolSpec]]] = []
    done_once: ClassVar[set[tuple[str, str]]] = set()

    options = get_args(OptionName)

    async def check_files(self, files: Sequence[File]) -> None:
        """Takes all files."""

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:  # noqa: C901, PLR0912, PLR0915 - a table
        self.seen.append(prompt)
        self.specs_seen.append(tools.specs)
        lines = prompt.message.splitlines() or [""]
        asked: list[ToolCall] = []
        if prompt.resumed is not None:
            lines = lines[prompt.resumed.state["line"] :]
            for call in msgspec.convert(prompt.resumed.state["asked"], list[ToolCall]):
                made = await tools.call(call.name, call.arguments, call_id=call.id, may_wait=True)
                yield TextDelta(f"{call.name}: {made.error or 'done'}. ")
        if prompt.begun is not None:  # the caller keeps the conversation, and has carried out the calls
            lines = lines[lines.index("wait") + 1 :]
            for call in prompt.begun.tool_calls:
                yield TextDelta(f"{call.name}: {call.error or json.dumps(call.result)}. ")
        for line in lines:
            command, _, rest = line.partition(" ")
            if command == "once":
                if (prompt.user_id, line) in self.done_once:
                    continue
                self.done_once.add((prompt.user_id, line))
                command, _, rest = rest.partition(" ")
            match command:
                case "say":
                    yield TextDelta(rest)
                case "write":
                    yield TextDelta(json.loads(rest))
                case "think":
                    yield ReasoningDelta(rest)
                case "words":
                    for number in range(int(rest)):
                        yield TextDelta(f"word {number} ")
                        await asyncio.sleep(0)
                case "flood":
                    for _ in range(int(rest)):
                        yield TextDelta("x" * 5_000)
                        await asyncio.sleep(0)
                case "sleep":
                    await asyncio.sleep(float(rest))
                case "gate":
                    self.gates[rest].reached.set()
                    self.gates[rest].waiting += 1
                    await self.gates[rest].opened.wait()
                case "leave":
                    self.gates[rest].reached.set()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        self.gates[f"left {rest}"].reached.set()
                case "specs":
                    yield TextDelta(json.dumps([spec.name for spec in tools.specs]))
                case "call":
                    name, _, arguments = rest.partition(" ")
                    call = await tools.call(name, json.loads(arguments))
                    yield TextDelta(f"{name}: {call.error or 'done'}. ")
                case "mute":
                    name, _, arguments = rest.partition(" ")
                    await tools.call(name, json.loads(arguments))
                case "outside":
                    await tools.call("outside", {}, own=done_outside)
                    yield TextDelta("Done.")
                case "ask":
                    name, _, arguments = rest.partition(" ")
                    call = await tools.call(name, json.loads(arguments or "{}"), may_wait=True)
                    if call.waits:
                        asked.append(call)
                    else:
                        yield TextDelta(f"{name}: {call.error or 'done'}. ")
                case "wait" if asked:
                    place = prompt.message.splitlines().index(
                        line, len(prompt.message.splitlines()) - len(lines)
                    )
                    yield Wait({"line": place + 1, "asked": msgspec.to_builtins(asked)})
                    return
                case "wait":
                    pass
                case "use":
                    yield msgspec.convert(
                        {"input_tokens": 0, "output_tokens": 0, **json.loads(rest)}, ModelUsage
                    )
                case "step":
                    yield StepStart()
                case "finish":
                    yield Finish(msgspec.convert(rest, FinishReason))
                case "history":
                    yield TextDelta(
                        json.dumps([[message.role, message.content] for message in prompt.history])
                    )
                case "files":
                    yield TextDelta(
                        json.dumps([[file.name, await looked_into(file)] for file in all_of(prompt)])
                    )
                case "fail":
                    raise ModelFailed("The model is having a bad day.")
                case "crash":
                    raise RuntimeError(f"secret-of-the-agent {rest}")
                case "pid":
                    yield TextDelta(str(os.getpid()))
                case "silence":
                    yield TextDelta(" ")
                case _:
                    yield TextDelta(f"You said: {line}")
        yield Usage(input_tokens=len(prompt.history), output_tokens=1)


async def done_outside() -> str:
    """A tool whose effect is not in the service's database."""
    return "done"


def all_of(prompt: Prompt) -> Sequence[File]:
    return [file for message in prompt.history for file in message.files] + [*prompt.files]


async def looked_into(file: File) -> str | int:
    """The text of a file, or of a picture how many bytes were read."""
    return len(await file.read()) if file.media_type.startswith("image/") else await file.text()
