"""Fakes of the agent port."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import ClassVar

from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools, Usage
from chatapi.errors import ModelFailed


class CommandedAgent:
    """Does what the message says, a command a line, so that a test can write what a model would do.

    `say TEXT`, `sleep SECONDS`, `call TOOL {JSON}`, `history` (says the history as JSON), `fail`, `crash`, `silence`.
    Any other line is echoed.
    """

    model = "commanded"
    seen: ClassVar[list[Prompt]] = []

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        self.seen.append(prompt)
        for line in prompt.message.splitlines():
            command, _, rest = line.partition(" ")
            match command:
                case "say":
                    yield TextDelta(rest)
                case "sleep":
                    await asyncio.sleep(float(rest))
                case "call":
                    name, _, arguments = rest.partition(" ")
                    call = await tools.call(name, json.loads(arguments))
                    yield TextDelta(f"{name}: {call.error or 'done'}. ")
                case "history":
                    yield TextDelta(
                        json.dumps([[message.role, message.content] for message in prompt.history])
                    )
                case "fail":
                    raise ModelFailed("The model is having a bad day.")
                case "crash":
                    raise RuntimeError("secret-of-the-agent")
                case "silence":
                    yield TextDelta(" ")
                case _:
                    yield TextDelta(f"You said: {line}")
        yield Usage(input_tokens=len(prompt.history), output_tokens=1)
