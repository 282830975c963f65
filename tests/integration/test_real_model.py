"""Turns with a real language model behind a real server, llama.cpp's (tests/support/real_model.py)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chatapi.agent.loading import load_agent
from chatapi.agent.schemas import offer
from chatapi.agent.tools import TASK_TOOLS
from chatapi.patience import Patience
from tests.support import real_model
from tests.support.real_model import RealModel
from tests.support.serving import Client, serve, settings_for
from tests.support.sse import STREAM, chunks_of, streamed, text_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a real model, beside all other tests
    pytest.mark.skipif(real_model.missing() is not None, reason=real_model.missing() or ""),
]

BRIEF = {"chat_instructions": "You answer with one word."}
CAPITAL = "What is the capital of France?"
STORY = "Write a very long story about a dragon, a knight and a castle."
# The model does as in the example; without one, it writes a program.
EXAMPLE = """When the user says what to buy, you answer with a tool call like this one:
<tool_call>
{"name": "add_task", "arguments": {"title": "bread"}}
</tool_call>"""
# 1,024 tokens are some 4,000 characters of English.
LONG = ("The quick brown fox jumps over the lazy dog near the river bank. " * 60)[:3_450]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    real_model.install()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('real') / 'chatapi.db'}"


@asynccontextmanager
async def talking(
    url: str, model: RealModel, user_id: str | None = None, **changes: Any
) -> AsyncIterator[Client]:
    """A user of a service on that model."""
    settings = settings_for(url, **{**model.settings, "rate_limit_chat": "off", **changes})
    async with (
        serve(settings, load_agent(settings, Patience())) as base_url,
        Client(base_url, user_id or uuid4().hex) as client,
    ):
        client.timeout = 300
        yield client


@pytest.fixture(scope="module")
async def model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealModel]:
    async with RealModel(tmp_path_factory.mktemp("model")).running() as model:
        yield model


class TestChat:
    """The model is one that knows something."""

    async def test_is_answered_and_goes_on(self, url: str, model: RealModel) -> None:
        async with talking(url, model, **BRIEF) as client:
            first = await client.said(CAPITAL)
            assert "Paris" in first["response"]
            assert first["usage"]["input_tokens"] > 10
            assert first["usage"]["output_tokens"] > 0
            second = await client.said("And of Italy?", first["conversation_id"])
            assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
            stored = await client.messages(first["conversation_id"])
            assert [each["status"] for each in stored] == ["completed"] * 4

    async def test_is_streamed_as_it_is_said(self, url: str, model: RealModel) -> None:
        async with talking(url, model, **BRIEF) as client:
            chunks = await streamed(client, CAPITAL)
            assert "Paris" in text_of(chunks)
            assert len([chunk for chunk in chunks if chunk["type"] == "text-delta"]) > 1
            assert (chunks[-1]["type"], chunks[-1]["finishReason"]) == ("finish", "stop")

    async def test_of_two_at_once_streams_both_at_once(self, url: str, model: RealModel) -> None:
        async with talking(url, model) as client, AsyncExitStack() as open_streams:
            streams = []
            for _ in range(2):
                response = await open_streams.enter_async_context(
                    client.stream("POST", client.mine("/chat"), json={"message": STORY}, headers=STREAM)
                )
                chunks = chunks_of(response)
                streams.append((chunks, (await anext(chunks))["messageMetadata"]["turn_id"]))
            for chunks, _ in streams:  # the second says something while the first is not done
                async for chunk in chunks:
                    if chunk["type"] == "text-delta":
                        break
                assert chunk["type"] == "text-delta"
            for chunks, turn_id in streams:
                assert (await client.post(client.mine(f"/turns/{turn_id}/cancel"))).status_code == 202
                *_, last = [chunk async for chunk in chunks]
                assert last["type"] == "abort"

    async def test_that_is_cancelled_is_given_up_by_the_server_and_kept_as_far_as_it_went(
        self, url: str, model: RealModel
    ) -> None:
        async with talking(url, model) as client:
            before = model.said.count("cancel task")
            async with client.stream(
                "POST", client.mine("/chat"), json={"message": STORY}, headers=STREAM
            ) as response:
                chunks = chunks_of(response)
                ids = (await anext(chunks))["messageMetadata"]
                async for chunk in chunks:
                    if chunk["type"] == "text-delta":
                        break
                await client.post(client.mine(f"/turns/{ids['turn_id']}/cancel"))
                assert [chunk async for chunk in chunks][-1]["type"] == "abort"
            while model.said.count("cancel task") == before:  # noqa: ASYNC110 - its log is all that tells
                await asyncio.sleep(0.05)
            _, answer = await client.messages(ids["conversation_id"])
            assert answer["status"] == "cancelled"
            assert answer["content"].strip()

    async def test_has_an_answer_as_long_as_is_allowed(self, url: str, model: RealModel) -> None:
        async with talking(url, model, chat_max_tokens=12) as client:
            chunks = await streamed(client, STORY)
            assert (chunks[-1]["type"], chunks[-1]["finishReason"]) == ("finish", "length")
            assert chunks[-1]["messageMetadata"]["usage"]["output_tokens"] == 12
            answer = await client.said(STORY)
            assert (answer["finish_reason"], answer["usage"]["output_tokens"]) == ("length", 12)
            _, stored = await client.messages(answer["conversation_id"])
            assert (stored["status"], stored["content"]) == ("completed", answer["response"])


async def test_a_tool_is_called_and_the_answer_made_of_its_result(url: str, tmp_path: Path) -> None:
    """Through a template as Qwen 2.5 and Hermes have it."""
    model = RealModel(tmp_path, template=real_model.TOOLS, length=300)
    async with model.running(), talking(url, model, chat_instructions=EXAMPLE) as client:
        answer = await client.said("Call the tool add_task with title 'milk'.")
        call = answer["tool_calls"][0]
        assert (call["name"], call["result"]["title"]) == ("add_task", "milk")
        assert answer["response"].strip()
        tasks = (await client.get(client.mine("/tasks"))).json()["items"]
        assert tasks[0]["title"] == "milk"


class TestServer:
    """The model talks nonsense, and is quick about it: what counts is what its server refuses."""

    async def test_that_cuts_answers_off_ends_them(self, url: str, tmp_path: Path) -> None:
        async with RealModel(tmp_path, "tiny", length=5).running() as model, talking(url, model) as client:
            answer = await client.said("Hello")
            assert answer["finish_reason"] == "length"
            assert (await client.said("Go on", answer["conversation_id"]))["finish_reason"] == "length"

    async def test_whose_context_a_conversation_has_outgrown_is_asked_again_with_less(
        self, url: str, tmp_path: Path
    ) -> None:
        model = RealModel(tmp_path, "tiny", context=1024, slots=1, length=5)
        async with model.running(), talking(url, model, **BRIEF) as client:
            conversation_id = (await client.said(LONG))["conversation_id"]
            for message in (LONG, *(["What is the capital of Italy? One word."] * 4), LONG, CAPITAL):
                await client.said(message, conversation_id)
            assert "exceeds the available context size" in model.said

    async def test_whose_context_the_message_alone_does_not_fit_is_told_the_user(
        self, url: str, tmp_path: Path
    ) -> None:
        model = RealModel(tmp_path, "tiny", context=1024, slots=1, length=5)
        async with model.running(), talking(url, model) as client:
            conversation_id = (await client.said("Hello"))["conversation_id"]
            refused = await client.chat(LONG * 2, conversation_id)
            assert (refused.status_code, refused.json()["type"]) == (
                422,
                "urn:chatapi:problem:message-too-long",
            )
            await client.said("Hello again", conversation_id)

    async def test_that_is_restarted_between_turns_is_talked_to_again(self, url: str, tmp_path: Path) -> None:
        model = RealModel(tmp_path, "tiny", length=5)
        async with talking(url, model) as client:
            async with model.running():
                conversation_id = (await client.said("Hello"))["conversation_id"]
            away = await client.chat("Hello?", conversation_id)
            assert (away.status_code, away.json()["type"]) == (502, "urn:chatapi:problem:model-failed")
            async with model.running():
                await client.said("Hello again", conversation_id)


SHARDS = 4  # so that several processes can take them
# By templates that cannot do it: Gemma 2 knows no tools, and nothing but user and assistant in turn.
REFUSING: dict[str, set[str]] = {"a first message": set(), "after two calls": {"google-gemma-2-2b-it"}}


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_the_templates_of_other_models_take_our_tools_and_a_history_with_calls(
    url: str, tmp_path: Path, shard: int
) -> None:
    """A first message, and one in a conversation in which the offline assistant has called two tools.

    What counts is that the server begins to generate: what it generates here is not of the form that it then expects.
    """
    refused: dict[str, dict[str, str]] = {name: {} for name in REFUSING}
    settings = settings_for(url, rate_limit_chat="off")
    options: dict[str, Any] = {"length": 5, "context": 8192, "slots": 1, "port": real_model.free_port()}
    async with (
        serve(settings, load_agent(settings, Patience())) as offline,
        Client(offline, uuid4().hex) as other,
        talking(url, RealModel(tmp_path, "tiny", **options), other.user_id) as client,
    ):
        for template in real_model.templates()[shard::SHARDS]:
            model = RealModel(tmp_path, "tiny", template=template, **options)
            async with model.running():
                told = await other.said("Add milk and bread to my list")
                assert len(told["tool_calls"]) == 2
                for name, conversation_id in zip(REFUSING, (None, told["conversation_id"]), strict=True):
                    before = model.begun
                    response = await client.chat("Say hello.", conversation_id)
                    if model.begun == before:
                        refused[name][template.stem] = f"{response.text}\n{model.said[-500:]}"
    assert {name: set(each) - REFUSING[name] for name, each in refused.items()} == {
        name: set() for name in refused
    }, refused


FOREIGN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "pattern": r"^[\w\s\-/]{1,200}$", "maxLength": 2000},
        "ids": {"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}, "maxItems": 2000},
        "filter": {"$ref": "#/$defs/Filter"},
        "order": {"oneOf": [{"const": "asc"}, {"const": "desc"}, {"type": "null"}]},
        "when": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}]},
        "rest": {"type": "object", "patternProperties": {"^x-": {}}, "additionalProperties": True},
        "any": {},
        "nothing": {"type": "object", "properties": {}},
    },
    "required": ["query", "filter"],
    "$defs": {
        "Filter": {
            "type": "object",
            "properties": {"all": {"type": "array", "items": {"$ref": "#/$defs/Filter"}}, "is": {"enum": [1, "a", None]}},
        }
    },
}  # fmt: skip


async def test_schemas_of_every_kind_are_taken_in_by_a_server_that_makes_a_grammar_of_them(
    tmp_path: Path,
) -> None:
    """As they come, this server refuses them with every message."""
    template = real_model.TEMPLATES / "Qwen-Qwen2.5-7B-Instruct.jinja"
    model = RealModel(tmp_path, "tiny", template=template, length=3, slots=1)
    ours = [(tool.name, tool.spec.parameters) for tool in TASK_TOOLS]
    nothing = ("now", offer({"type": "object"}).schema)
    async with model.running(), Client(model.url, "nobody") as client:

        async def status(*tools: tuple[str, dict[str, Any]]) -> int:
            named = [{"name": name, "description": name, "parameters": each} for name, each in tools]
            body = {
                "messages": [{"role": "user", "content": "Say hello."}],
                "tools": [{"type": "function", "function": each} for each in named],
            }
            return (await client.post("/chat/completions", json=body)).status_code

        assert await status(("search", FOREIGN)) == 400
        assert await status(*ours, nothing, ("search", offer(FOREIGN).schema)) == 200
