"""The fakes refuse what the vendors refuse, and answer requests that don't ask for a stream."""

from typing import Any

import pytest
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest, TextPart
from pydantic_ai.models import ModelRequestParameters, create_async_httpx2_client

from chatapi.agent.llm.providers import model_of
from tests.support.providers.server import Providers
from tests.support.serving import anybody, settings_for

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
GEMINI = "/v1beta/models/gemini-3-pro:generateContent"
USER: dict[str, Any] = {"role": "user", "content": "say x"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "x"}]}
FUNCTION = {"name": "f", "arguments": "{}"}
CALL = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]}
LONG = {"role": "assistant", "tool_calls": [{"id": "x" * 41, "type": "function", "function": FUNCTION}]}
ASKED = {"role": "user", "parts": [{"text": "say x"}]}
SAID = {"role": "model", "parts": [{"text": "x"}]}
CALLED = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
ANSWERED = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}
FORGED = {"role": "model", "parts": [{"text": "x", "thoughtSignature": "Zm9yZ2Vk"}]}

REFUSED = [
    (CHAT, {"messages": [USER, CALL]}, "did not have response messages"),
    (CHAT, {"messages": [USER, CALL, USER]}, "did not have response messages"),
    (
        CHAT,
        {"messages": [USER, {"role": "tool", "tool_call_id": "c1", "content": "x"}]},
        "must be a response",
    ),
    (CHAT, {"messages": [USER, {"role": "assistant", "content": None}]}, "content is required"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "Invalid role"),
    (CHAT, {"messages": [USER, LONG]}, "Invalid"),
    (MESSAGES, {"messages": [USER]}, "max_tokens"),
    (MESSAGES, {"messages": [USER, USER], "max_tokens": 1}, "alternate"),
    (MESSAGES, {"messages": [USER, USE], "max_tokens": 1}, "immediately after"),
    (MESSAGES, {"messages": [USER, USE, USER], "max_tokens": 1}, "do not match"),
    (MESSAGES, {"messages": [RESULT], "max_tokens": 1}, "do not match"),
    (MESSAGES, {"messages": [{"role": "user", "content": " "}], "max_tokens": 1}, "non-empty"),
    (RESPONSES, {"input": [USER, {"type": "function_call_output", "call_id": "c1"}]}, "No tool call found"),
    (RESPONSES, {"input": [USER, {"type": "function_call", "call_id": "c1"}]}, "No tool output found"),
    (RESPONSES, {"input": [USER, {"type": "reasoning", "id": "rs_none"}]}, "not found"),
    (GEMINI, {"contents": [ASKED, ASKED]}, "alternate"),
    (GEMINI, {"contents": [SAID]}, "alternate"),
    (GEMINI, {"contents": [ASKED, CALLED, ANSWERED]}, "missing a thought_signature"),
    (GEMINI, {"contents": [ASKED, FORGED, ASKED]}, "not valid"),
    (GEMINI, {"contents": [ASKED, ANSWERED]}, "must equal"),
]


@pytest.mark.parametrize(("path", "body", "reason"), REFUSED)
async def test_what_a_vendor_refuses_is_refused(
    providers: Providers, path: str, body: dict[str, Any], reason: str
) -> None:
    headers = {
        "authorization": "Bearer key-of-openai",
        "x-api-key": "key-of-anthropic",
        "anthropic-version": "2023-06-01",
        "x-goog-api-key": "key-of-gemini",
    }
    if path == MESSAGES:
        del headers["authorization"]
    async with anybody(providers.base_url, headers=headers) as client:
        response = await client.post(path, json={"model": "m", **body})
    assert response.status_code == 400
    assert reason in response.text


async def test_an_answer_may_come_whole(wire: str, providers: Providers) -> None:
    async with create_async_httpx2_client() as http:
        model = model_of(wire, settings_for("sqlite:///unused", **providers.settings), http)
        response = await model_request(
            model,
            [ModelRequest.user_text_prompt('think Hm.\nsay One moment.\ncall f {"a": 1}')],
            model_request_parameters=ModelRequestParameters(),
        )
    (call,) = response.tool_calls
    text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
    assert (text, call.tool_name, call.args_as_dict()) == ("One moment.", "f", {"a": 1})
    assert (response.usage.input_tokens, response.usage.output_tokens) == (10, 5)
