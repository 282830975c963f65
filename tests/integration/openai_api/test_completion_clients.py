"""Programs made for OpenAI's API, unmodified: LangChain, OpenAI's agents, and in Node OpenAI's SDK and Vercel's.

Each with its tools, streams and schemas.
"""

import uuid
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.support import ai_sdk
from tests.support.openai_sdk import Number, langchain, sdk, told_in_node, weather

pytestmark = pytest.mark.slow  # the imports alone take seconds


@pytest.mark.filterwarnings("default")  # they are not ours
async def test_langchain(url: str) -> None:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool

    tool_of_theirs = tool(weather)
    model = langchain(url, temperature=0.5)
    messages = [
        SystemMessage("Be brief."),
        HumanMessage('say Let me see.\nask weather {"city": "Bern"}\nwait\nsay Done.'),
    ]
    with_tools = model.bind_tools([tool_of_theirs], strict=True)
    first = await with_tools.ainvoke(messages)
    assert isinstance(first, AIMessage)
    (call,) = first.tool_calls
    outcome = await tool_of_theirs.ainvoke(call)
    assert isinstance(outcome, ToolMessage)
    second = await with_tools.ainvoke([*messages, first, outcome])
    assert second.content == 'weather: "sunny in Bern". Done.'
    pieces = [piece async for piece in model.astream([HumanMessage("say One \nsay two.")])]
    assert "".join(str(piece.content) for piece in pieces) == "One two."
    structured = model.with_structured_output(Number, method="json_schema")
    assert await structured.ainvoke('say {"n": 7}') == Number(n=7)


@pytest.mark.filterwarnings("default")  # they are not ours
async def test_openai_agents(url: str) -> None:
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(True)  # it would send traces to OpenAI, with the key of this server

    async with sdk(url, f"a-{uuid.uuid4().hex}") as client:
        assert isinstance(client, AsyncOpenAI)
        model = OpenAIChatCompletionsModel("commanded", client)
        agent = Agent(name="A", instructions="Be brief.", model=model, tools=[function_tool(weather)])
        question = 'ask weather {"city": "Bern"}\nwait\nsay Done.'
        assert (await Runner.run(agent, question)).final_output == 'weather: "sunny in Bern". Done.'
        streamed = Runner.run_streamed(agent, question)
        assert [event async for event in streamed.stream_events()]
        assert streamed.final_output == 'weather: "sunny in Bern". Done.'
        parsing = Agent(name="B", model=model, output_type=Number)
        assert (await Runner.run(parsing, 'say {"n": 7}')).final_output == Number(n=7)


@pytest.mark.skipif(ai_sdk.missing() is not None, reason="needs npm and its Node")
async def test_node(url: str, tmp_path: Path) -> None:
    answer = 'weather: "sunny in Bern". Done.'
    assert await told_in_node("openai.mjs", url, tmp_path) == {
        "created": "Yes.",
        "streamed": "One two.",
        "tools": answer,
        "toolsStreamed": answer,
        "parsed": {"n": 7},
        "refused": ["BadRequestError", "unsupported_parameter", "n"],
        "failed": ["APIError", "model_failed"],
        "vercel": answer,
        "vercelStreamed": answer,
        "vercelParsed": {"n": 7},
    }
