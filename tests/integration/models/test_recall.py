"""The service's `recall` gives way to an assistant's own tool of that name, and is offered where there is none."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic_ai import Agent as PydanticAI
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from chatapi.agent.llm import LLMAgent
from chatapi.agent.ports import Prompt, TextDelta, ToolCall, ToolSpec
from chatapi.agent.pydantic_ai import PydanticAgent
from chatapi.conversations.recall import RECALL
from tests.integration.models.test_any_server import LOCAL, settings_on
from tests.support.providers.scripted import call, delta, said, serve_scripted, streamed
from tests.support.serving import BRIEF_PAUSES

PROMPT = Prompt(user_id="alice", conversation_id=1, message="Hello")


def recall() -> str:
    """The assistant's own."""
    return "own"


class Recalling:
    """Offers the service's tool, and answers with what carries a call out."""

    def __init__(self) -> None:
        self.specs: tuple[ToolSpec, ...] = (RECALL.spec,)
        self.made: list[Any] = []

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        own: Callable[[], Awaitable[Any]] | None = None,
        **_: Any,
    ) -> ToolCall:
        self.made.append("ours" if own is None else await own())
        return ToolCall(id="c", name=name, arguments=arguments, result=1)


@pytest.mark.parametrize("own", [True, False])
async def test_in_an_assistant_of_models(own: bool) -> None:
    asks = streamed(delta(tool_calls=[call(name="recall", id="a", index=0)]), delta("tool_calls"))
    async with serve_scripted(asks, said("Done.")) as server:
        functions = [recall] if own else []
        agent = LLMAgent(LOCAL, tools=functions, settings=settings_on(server), patience=BRIEF_PAUSES)
        tools = Recalling()
        async with agent:
            told = [event async for event in agent.reply(PROMPT, tools)]
    assert any(isinstance(event, TextDelta) for event in told)
    (offered,) = server.bodies[0]["tools"]
    assert offered["function"]["description"] == ("The assistant's own." if own else RECALL.description)
    assert tools.made == ["own" if own else "ours"]


@pytest.mark.parametrize("own", [True, False])
async def test_in_a_pydantic_ai_agent(own: bool) -> None:
    offered: list[str | None] = []

    async def model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        offered.extend(tool.description for tool in info.function_tools)
        if len(messages) == 1:
            yield {0: DeltaToolCall(name="recall", json_args="{}", tool_call_id="c")}
        else:
            yield "Done."

    tools = Recalling()
    inner = PydanticAI(FunctionModel(stream_function=model), tools=[recall] if own else [])
    async for _ in PydanticAgent(inner).reply(PROMPT, tools):
        pass
    assert offered == ["The assistant's own." if own else RECALL.description] * 2
    assert tools.made == ["own" if own else "ours"]
