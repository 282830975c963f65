"""Programs made for OpenAI's Responses API, unmodified: LangChain, OpenAI's agents, and in Node OpenAI's SDK and Vercel's."""

import json
import uuid
from pathlib import Path

import pytest

from tests.support import ai_sdk
from tests.support.openai_sdk import Number, langchain, sdk, told_in_node, weather

pytestmark = pytest.mark.slow  # the imports alone take seconds

QUESTION = 'think Hm.\nsay Let me see. \nask weather {"city": "Bern"}\nwait\nsay Done.'


@pytest.mark.filterwarnings("default")  # they are not ours
async def test_langchain(url: str) -> None:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_core.tools import tool

    tool_of_theirs = tool(weather)
    model = langchain(url, use_responses_api=True)
    with_tools = model.bind_tools([tool_of_theirs], strict=True)
    first = await with_tools.ainvoke([HumanMessage(QUESTION)])
    assert isinstance(first, AIMessage)
    (call,) = first.tool_calls
    outcome = await tool_of_theirs.ainvoke(call)
    assert isinstance(outcome, ToolMessage)
    second = await with_tools.ainvoke([HumanMessage(QUESTION), first, outcome])
    assert second.text == "weather: done. Done."
    goes_on = await model.ainvoke(
        [HumanMessage("history")], previous_response_id=second.response_metadata["id"]
    )
    assert json.loads(goes_on.text)[1] == ["assistant", "Let me see. weather: done. Done."]
    pieces = [piece async for piece in model.astream([HumanMessage("say One \nsay two.")])]
    assert "".join(piece.text for piece in pieces) == "One two."


@pytest.mark.filterwarnings("default")  # they are not ours
async def test_openai_agents(url: str) -> None:
    from agents import (
        Agent,
        OpenAIConversationsSession,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )

    set_tracing_disabled(True)  # it would send traces to OpenAI, with the key of this server

    async with sdk(url, f"a-{uuid.uuid4().hex}") as client:
        model = OpenAIResponsesModel("commanded", client)
        agent = Agent(name="A", instructions="Be brief.", model=model, tools=[function_tool(weather)])
        done = await Runner.run(agent, QUESTION)
        assert done.final_output == "weather: done. Done."
        goes_on = await Runner.run(agent, "history", previous_response_id=done.last_response_id)
        assert json.loads(goes_on.final_output)[1] == ["assistant", "Let me see. weather: done. Done."]
        streamed = Runner.run_streamed(agent, f'call add_task {{"title": "milk"}}\n{QUESTION}')
        assert [event async for event in streamed.stream_events()]
        assert streamed.final_output == "weather: done. Done."
        session = OpenAIConversationsSession(openai_client=client)
        await Runner.run(agent, f'call add_task {{"title": "milk"}}\n{QUESTION}', session=session)
        kept = [item.get("type") for item in await session.get_items()]
        assert kept == [
            *("message", "mcp_call", "message", "message"),
            *("function_call", "function_call_output", "message"),
        ]
        remembered = await Runner.run(agent, "history", session=session)
        assert [role for role, _ in json.loads(remembered.final_output)] == ["user", "assistant"]
        popped = await session.pop_item()
        assert popped is not None
        assert popped["id"] not in {item["id"] for item in await session.get_items()}  # type: ignore[typeddict-item]
        parsing = Agent(name="B", model=model, output_type=Number)
        assert (await Runner.run(parsing, 'say {"n": 7}')).final_output == Number(n=7)


@pytest.mark.skipif(ai_sdk.missing() is not None, reason="needs npm and its Node")
async def test_node(url: str, tmp_path: Path) -> None:
    answer = "weather: done. Done."
    assert await told_in_node("responses.mjs", url, tmp_path) == {
        "created": "Yes.",
        "streamed": [
            "word 0 word 1 word 2 add_task: done. ",
            ["reasoning", "message", "mcp_call", "message"],
        ],
        "replayed": True,
        "rest": [4, True],
        "tools": answer,
        "background": "Later.",
        "refused": ["BadRequestError", "unsupported_parameter", "top_logprobs"],
        "failed": ["APIError", "model_failed"],
        "items": ["assistant", "user"],
        "deleted": True,
        "vercel": answer,
        "vercelHistory": ["user", "assistant"],
        "vercelStreamed": [answer, 2, 2, 0, 1],
        "vercelGoesOn": '[["user", "say Yes."], ["assistant", "Yes."]]',
        "vercelUnstored": 'weather: "sunny in Bern". Done.',
        "vercelParsed": {"n": 7},
    }
