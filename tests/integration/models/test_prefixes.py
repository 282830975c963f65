"""What is sent begins as the request before did, byte for byte, so that providers' caches find it."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from chatapi.agent.inputs import first_shown
from chatapi.agent.llm import cache_key_of
from chatapi.agent.ports import ModelUsage, Prompt, ToolSpec
from chatapi.agent.providers import candidate
from chatapi.agent.wire.formats import Question
from chatapi.agent.wire.speech import Speech
from tests.integration.models.conftest import WIRES, serving
from tests.support.providers.caches import Cache, blocks_of
from tests.support.providers.server import Providers
from tests.support.serving import Client, settings_for

WORDS = 150  # of each message
CALLS_EACH = 5  # turns with a call of a tool
FIRST_COUNTED = 12
QUESTION = Question(
    model="m",
    instructions="Be brief.",
    messages=[],
    tools=[ToolSpec(name="f", description="f", parameters={})],
    max_tokens=None,
    stream=True,
)


async def found_of(
    client: Client, providers: Providers, turns: int
) -> tuple[Sequence[tuple[int, int]], Sequence[Sequence[bytes]]]:
    """What a cache finds of each turn's first request, and what these requests are made of."""
    conversation_id, cache, found, sent = None, Cache(), [], []
    for number in range(turns):
        message = f"say {' '.join(f'word{number * WORDS + place}' for place in range(WORDS))}"
        if number % CALLS_EACH == 0:
            message = f'call add_task {{"title": "task {number}"}}\n{message}'
        before = len(providers.requests)
        conversation_id = (await client.said(message, conversation_id))["conversation_id"]
        requests = [each for each in providers.requests[before:] if "tools" in each.body]
        assert [each.refused for each in requests] == [None] * len(requests)
        first, *_ = [cache.take(each.body) for each in requests]
        found.append(first)
        sent.append([block for block, _ in blocks_of(requests[0].body)])
    return found, sent


def share(found: Sequence[tuple[int, int]]) -> float:
    counted = found[FIRST_COUNTED:]
    return sum(hit for hit, _ in counted) / sum(all_ for _, all_ in counted)


async def test_most_of_a_request_is_found_in_the_one_before(talker: Client, providers: Providers) -> None:
    """Where the window falls, the tools and the instructions are found still, but once: then `recall` is a tool, too."""
    found, sent = await found_of(talker, providers, FIRST_COUNTED + 12)
    assert share(found) >= 0.75
    falls = [
        place for place, (before, after) in enumerate(pairwise(sent), 1) if after[: len(before)] != before
    ]
    assert falls == [11, 17, 23]
    assert [place for place, (hit, _) in enumerate(found) if not hit] in ([0], [0, 11])


@pytest.mark.slow
async def test_most_of_a_long_conversation_is_found(sqlite_url: str, providers: Providers) -> None:
    async with (
        serving(sqlite_url, WIRES[0], providers, rate_limit="off", rate_limit_chat="off") as url,
        Client(url, "who-talks-for-long") as client,
    ):
        found, sent = await found_of(client, providers, 300)
    assert share(found) >= 0.75
    assert max(len(each) for each in sent) < 60


@pytest.mark.parametrize("model", ["openai:m", "openai-responses:m"])
def test_a_key_for_the_cache_goes_to_openai_alone(model: str) -> None:
    own = settings_for("sqlite:///unused", openai_api_key="k")
    question = replace(QUESTION, cache_key="of a conversation")
    sent = candidate(model, own).format.request(question).body
    assert sent["prompt_cache_key"] == "of a conversation"
    assert "prompt_cache_key" not in candidate(model, own).format.request(QUESTION).body
    elsewhere = replace(own, openai_base_url="http://127.0.0.1:1/v1")
    assert "prompt_cache_key" not in candidate(model, elsewhere).format.request(question).body


def test_a_key_for_the_cache_is_a_conversations_and_names_nobody() -> None:
    prompts = [
        Prompt(user_id=user, conversation_id=conversation, message=message)
        for user, conversation, message in [
            ("alice", 1, "a"),
            ("alice", 1, "b"),
            ("alice", 2, "a"),
            ("a", 1, "a"),
        ]
    ]
    first, again, *others = [cache_key_of(prompt) for prompt in prompts]
    assert first == again
    assert len({first, *others}) == 3
    assert "alice" not in first
    assert len(first) == 32


def test_a_question_without_another_behind_it_is_not_marked() -> None:
    """Anthropic charges a quarter more for what it writes into its cache."""
    format_ = candidate("anthropic:m", settings_for("sqlite:///unused", anthropic_api_key="k")).format
    question = replace(QUESTION, messages=[format_.user("x")])
    assert "cache_control" not in json.dumps(format_.request(question).body)
    assert "cache_control" in json.dumps(format_.request(replace(question, cache_key="k")).body)


class TestFilesOfTheHistory:
    """They fall to half of what may be shown, and not one by one."""

    @pytest.mark.parametrize(
        ("sizes", "first"),
        [
            ([], 0),
            ([4, 4], 0),
            ([4, 4, 1], 2),  # the last two would be more than half
            ([4, 3, 1, 1], 2),
            ([4, 4, 1, 3, 3], 2),
            ([4, 7], 1),  # the last one is shown if it can be
            ([4, 9], 2),
            ([9, 1], 1),
        ],
    )
    def test_are_shown_from_one_place_on(self, sizes: Sequence[int], first: int) -> None:
        assert first_shown(sizes, 8) == first


USAGE: list[tuple[str, dict[str, Any]]] = [
    (
        "openai:m",
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 5},
            }
        },
    ),
    ("openai:m", {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 5}}),
    ("openai:m", {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 5}}),
    (
        "openai-responses:m",
        {"usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 5}}},
    ),
    (
        "google:m",
        {
            "usageMetadata": {
                "promptTokenCount": 9,
                "candidatesTokenCount": 2,
                "cachedContentTokenCount": 5,
            }
        },
    ),
    # Anthropic's count of the input is without what is read from the cache and what is written into it.
    (
        "anthropic:m",
        {
            "usage": {
                "input_tokens": 3,
                "output_tokens": 2,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 1,
            }
        },
    ),
]


@pytest.mark.parametrize(("model", "told"), USAGE)
def test_cached_tokens_are_told_by_each_provider_in_its_way(model: str, told: dict[str, Any]) -> None:
    keys = dict.fromkeys(("openai_api_key", "gemini_api_key", "anthropic_api_key"), "k")
    reader = candidate(model, settings_for("sqlite:///unused", **keys)).format.reader(Speech())
    list(reader.whole(json.dumps(told).encode()))
    usage = reader.usage
    assert isinstance(usage, ModelUsage)
    assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (9, 2, 5)
    assert usage.cache_write_tokens == (1 if model.startswith("anthropic") else 0)


def test_an_end_that_does_not_speak_of_the_cache_takes_nothing_back() -> None:
    """As some servers that speak Anthropic's API end a stream."""
    reader = candidate("anthropic:m", settings_for("sqlite:///unused", anthropic_api_key="k")).format.reader(
        Speech()
    )
    begun = {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": 5}
    for event in (
        {"type": "message_start", "message": {"usage": begun}},
        {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 3, "output_tokens": 2}},
    ):
        list(reader.event(json.dumps(event).encode()))
    assert reader.usage == ModelUsage(input_tokens=8, output_tokens=2, cached_input_tokens=5)
