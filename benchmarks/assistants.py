"""What all servers ask for an answer: the same text, at once or after two seconds."""

import asyncio
from collections.abc import AsyncIterator

from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools, Usage

ANSWER = "Of course. I have looked at your list, and there are three things on it that are due this week."
SLOW_SECONDS = 2.0


class Assistant:
    model = "benchmark"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:  # noqa: ARG002 - the port's
        if self._seconds:
            await asyncio.sleep(self._seconds)
        yield TextDelta(ANSWER)
        yield Usage(input_tokens=200, output_tokens=20)


def instant() -> Assistant:
    return Assistant(0)


def slow() -> Assistant:
    return Assistant(SLOW_SECONDS)
