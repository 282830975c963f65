"""History as a cancelled turn leaves it, in each wire format."""

import pytest

from chatapi.agent.llm import LLMAgent
from chatapi.agent.ports import HistoryMessage, Prompt, TextDelta, ToolCall
from tests.support.providers.server import Providers
from tests.support.serving import settings_for

CALL = ToolCall(id="c1", name="add_task", arguments={"title": "milk"}, result={"id": 1})


class NoTools:
    specs = ()

    async def call(self, *_: object, **__: object) -> ToolCall:
        raise NotImplementedError


@pytest.mark.parametrize(
    "cancelled",
    [
        HistoryMessage(role="assistant", content=""),
        HistoryMessage(role="assistant", content="Half an"),
        HistoryMessage(role="assistant", content="", tool_calls=[CALL]),
    ],
)
async def test_is_taken_by_every_provider(wire: str, providers: Providers, cancelled: HistoryMessage) -> None:
    prompt = Prompt(
        user_id="alice",
        conversation_id=1,
        message="say Here.",
        history=[HistoryMessage(role="user", content="Hello"), cancelled],
    )
    async with LLMAgent(wire, settings=settings_for("sqlite:///unused", **providers.settings)) as agent:
        events = [event async for event in agent.reply(prompt, NoTools())]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Here."
    assert providers.requests[-1].refused is None
