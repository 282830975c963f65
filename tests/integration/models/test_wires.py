"""The fakes refuse what the vendors refuse, and answer requests that don't ask for a stream."""

from typing import Any

import pytest

from chatapi.agent.providers import candidate
from chatapi.agent.wire.formats import CallIds, Question
from chatapi.agent.wire.http import ModelClient
from chatapi.agent.wire.speech import Speech
from tests.support.providers.server import Providers
from tests.support.serving import anybody, settings_for

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
GEMINI = "/v1beta/models/gemini-3-pro:generateContent"
USER: dict[str, Any] = {"role": "user", "content": "say x"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "x"}]}
THOUGHT = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "s"}]}
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
    (MESSAGES, {"messages": [USER, THOUGHT, USER], "max_tokens": 1}, "cannot be `thinking`"),
    (RESPONSES, {"input": [USER, {"type": "function_call_output", "call_id": "c1"}]}, "No tool call found"),
    (RESPONSES, {"input": [USER, {"type": "function_call", "call_id": "c1"}]}, "No tool output found"),
    (RESPONSES, {"input": [USER, {"type": "reasoning", "id": "rs_none"}]}, "not found"),
    (RESPONSES, {"input": [USER, {"type": "reasoning"}, USER]}, "required following item"),
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
    model = candidate(wire, settings_for("sqlite:///unused", **providers.settings))
    message = 'think Hm.\nsay One moment.\ncall f {"a": 1}'
    question = Question(
        model=model.model,
        instructions="Answer.",
        messages=[model.format.user(message)],
        tools=[],
        max_tokens=None,
        stream=False,
    )
    reader = model.format.reader(speech := Speech())
    async with ModelClient() as client:
        asked = client.ask(model.base_url, model.format.request(question), model.format, reader)
        assert [said async for said in asked]
    assert list(speech.end()) == []
    answer = reader.answer(CallIds())
    (call,) = answer.calls
    assert (answer.text, call.name, call.arguments) == ("One moment.", "f", {"a": 1})
    assert reader.usage is not None
    assert (reader.usage.input_tokens, reader.usage.output_tokens) == (10, 5)
    assert providers.requests[-1].body.get("stream") is None
