"""A completion through OpenAI's API on each wire format: whatever order its caller keeps the conversation in, no vendor refuses it."""

import base64
import uuid
from typing import Any

import openai
import pytest

from tests.integration.models.conftest import ServiceOn
from tests.support.files import png
from tests.support.openai_sdk import sdk
from tests.support.providers.server import Providers

FUNCTION: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def called(*ids: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    calls = [{"id": id_, "type": "function", "function": function} for id_ in ids]
    return {"role": "assistant", "content": "Let me see.", "tool_calls": calls}


def said(role: str, content: Any, **members: Any) -> Any:
    return {"role": role, "content": content, **members}


async def test_on_a_conversation_in_any_order(wire: str, service_on: ServiceOn, providers: Providers) -> None:
    url = await service_on(wire)
    picture = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"},
    }
    earlier: list[Any] = [
        said("system", "Be brief."),
        said("assistant", "How can I help?"),
        said("user", "first"),
        said("user", [{"type": "text", "text": "second"}, picture]),
        called("c1", "c2"),
        said("tool", "sunny", tool_call_id="c2"),
        said("tool", "rainy", tool_call_id="c1"),
        said("assistant", "It depends."),
        said("assistant", "Really."),
    ]
    async with sdk(url, f"door-{uuid.uuid4().hex}") as client:
        question = 'call weather {"city": "Bern"}\nsay And so on.'
        asked: dict[str, Any] = {"model": wire, "tools": [FUNCTION], "max_tokens": 100}
        first = await client.chat.completions.create(messages=[*earlier, said("user", question)], **asked)
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = first.choices[0].message.tool_calls or []
        answered: list[Any] = [
            said("user", question),
            first.choices[0].message,
            said("tool", "foggy", tool_call_id=call.id),
        ]
        second = await client.chat.completions.create(messages=[*earlier, *answered], **asked)
        assert (second.choices[0].message.content, second.choices[0].finish_reason) == ("And so on.", "stop")
        assert second.usage is not None
        assert second.usage.total_tokens == 15
        cut = await client.chat.completions.create(messages=[said("user", "end length")], **asked)
        assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("", "length")
    sent = providers.requests[-2]
    assert all(word in sent.text for word in ("Be brief.", "second", "sunny", "rainy", "foggy", "Really."))
    assert [each.refused for each in providers.requests[-3:]] == [None] * 3


async def test_an_option_that_the_format_does_not_have_is_refused_before_the_call(
    service_on: ServiceOn, providers: Providers
) -> None:
    url = await service_on("anthropic:claude-test")
    before = len(providers.requests)
    async with sdk(url, f"door-{uuid.uuid4().hex}") as client:
        with pytest.raises(openai.BadRequestError) as error:
            await client.chat.completions.create(
                model="claude-test", messages=[said("user", "say x")], seed=1
            )
    assert (error.value.code, error.value.param) == ("unsupported_parameter", "seed")
    assert len(providers.requests) == before
