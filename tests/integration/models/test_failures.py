"""Each way in which a model fails: what the client gets, what is stored, and that the conversation goes on."""

import asyncio
import json
import logging
import socket
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.models.conftest import serving
from tests.integration.models.test_conversations import stored
from tests.support.providers.server import Providers
from tests.support.serving import Client
from tests.support.sse import chunks_of, streamed

FAILED, TRUNCATED, EMPTY, FILTERED = "model-failed", "model-truncated", "model-empty", "model-filtered"
CASES = [
    ("status 429 7", 503, "model-busy", 1),
    ("status 429", 503, "model-busy", 3),
    ("status 503", 503, "model-busy", 3),
    ("status 529", 503, "model-busy", 3),
    ("status 500", 502, FAILED, 3),
    ("end drop", 502, FAILED, 3),
    ("end garbage", 502, FAILED, 3),
    ("say Half an\nend cut", 502, TRUNCATED, 1),
    ("say Half an\nend drop", 502, TRUNCATED, 1),
    ("say Half an\nend garbage", 502, TRUNCATED, 1),
    ('call add_task {"title": "never"}\nend length', 502, TRUNCATED, 1),
    ("end length", 502, TRUNCATED, 1),
    ('call add_task {"title": "never"}\nend cut', 502, TRUNCATED, 1),
    ("silent 9", 502, EMPTY, 2),
    ("end filter", 502, FILTERED, 1),
    ("say Half an\nend filter", 502, FILTERED, 1),
    ("status 400", 502, "model-misconfigured", 1),
    ("status 401", 502, "model-misconfigured", 1),
    ("status 403", 502, "model-misconfigured", 1),
    ("again list_tasks", 502, "model-looped", 10),
]
SECRETS = ("secret-of-the-provider", "internal.example", "key-of-", "127.0.0.1")


def problem_of(response: httpx.Response) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    problem["type"] = problem["type"].removeprefix("urn:chatapi:problem:")
    return problem


def tried(providers: Providers, text: str) -> int:
    return len(providers.of(text))


class TestFailure:
    @pytest.mark.parametrize(("command", "status", "type_", "tries"), CASES)
    async def test_is_told_stored_and_over(
        self, talker: Client, providers: Providers, command: str, status: int, type_: str, tries: int
    ) -> None:
        conversation_id = (await talker.said("say Hello."))["conversation_id"]
        mark = uuid.uuid4().hex
        message = f"# {mark}\n{command}"
        response = await talker.chat(message, conversation_id)
        problem = problem_of(response)
        assert (problem["status"], problem["type"]) == (status, type_)
        assert ("Retry-After" in response.headers) == (status == 503)
        assert not any(secret in response.text for secret in SECRETS)
        assert tried(providers, mark) == tries
        kept = [("user", message, "failed")]
        if command.startswith("say "):
            kept.append(("assistant", "Half an", "failed"))
        _, _, *turn = await talker.messages(conversation_id)
        if command.startswith("again "):
            assert len(turn.pop()["tool_calls"]) == tries
        assert [(each["role"], each["content"], each["status"]) for each in turn] == kept
        assert (await talker.get(talker.mine("/tasks"))).json()["items"] == []
        assert (await talker.said("say On we go.", conversation_id))["response"] == "On we go."
        assert tried(providers, mark) == tries  # the failed turn is not in the next one's history
        assert providers.requests[-1].refused is None

    async def test_is_not_what_a_limit_of_length_is(self, talker: Client, providers: Providers) -> None:
        answer = await talker.said("say Half an\nend length")
        assert (answer["response"], answer["finish_reason"]) == ("Half an", "length")
        assert (await talker.said("say On.", answer["conversation_id"]))["response"] == "On."
        assert "Half an" in json.dumps(providers.requests[-1].body)

    async def test_tells_the_providers_delay(self, talker: Client) -> None:
        response = await talker.chat("status 429 7")
        assert response.headers["Retry-After"] == "7"
        assert response.json()["retry_after"] == 7

    async def test_tells_the_providers_delay_in_a_stream_and_when_it_is_read_again(
        self, talker: Client
    ) -> None:
        chunks = await streamed(talker, "status 429 7")
        assert chunks[-1]["problem"]["retry_after"] == 7
        turn = chunks[0]["messageMetadata"]
        path = f"/chat/{turn['conversation_id']}/stream?turn_id={turn['turn_id']}"
        async with talker.stream("GET", talker.mine(path)) as response:
            again = [chunk async for chunk in chunks_of(response)]
        assert again[-1] == chunks[-1]

    async def test_after_the_first_piece_may_be_overload_too(self, talker: Client, wire: str) -> None:
        problem = problem_of(await talker.chat("say Half an\nend overloaded"))
        told = (502, FAILED) if wire.startswith("openai") else (503, "model-busy")
        assert (problem["status"], problem["type"]) == told

    async def test_that_passes_is_not_noticed(self, talker: Client, providers: Providers) -> None:
        mark = uuid.uuid4().hex
        assert (await talker.said(f"status 500 x2\nsay {mark}"))["response"] == mark
        assert tried(providers, mark) == 3

    async def test_of_the_services_own_is_an_error_in_the_log(
        self, talker: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR, "chatapi"):
            await talker.chat("status 401")
        assert "The provider refuses" in caplog.text
        assert "key-of-" not in caplog.text


async def test_a_malformed_call_of_gemini_is_no_answer(sqlite_url: str, providers: Providers) -> None:
    async with serving(sqlite_url, "google:gemini-3-pro", providers) as url, Client(url, "alice") as alice:
        problem = problem_of(await alice.chat("end malformed"))
        assert (problem["status"], problem["type"]) == (502, FAILED)


@pytest.mark.parametrize("message", ["sleep 20", "call list_tasks\nsleep 20"])
async def test_slowness_is_504_within_the_time_out(
    sqlite_url: str, wire: str, wire_service: str, providers: Providers, message: str
) -> None:
    async with serving(sqlite_url, wire, providers, chat_timeout=0.5) as url, Client(url, "alice") as alice:
        problem = problem_of(await asyncio.wait_for(alice.chat(message), 15))
        assert (problem["status"], problem["type"]) == (504, "model-too-slow")
    async with Client(
        wire_service, "alice"
    ) as alice:  # which has more patience, so that the machine may be slow
        assert (await alice.said("say Quick.", problem["conversation_id"]))["response"] == "Quick."


async def test_slowness_of_a_limited_model_is_503(sqlite_url: str, providers: Providers) -> None:
    async with (
        serving(sqlite_url, "openai:gpt-5-mini", providers, chat_timeout=1.5) as url,
        Client(url, "alice") as alice,
    ):
        response = await alice.chat("status 429 1 x1\nsleep 20")
        assert (response.status_code, problem_of(response)["type"]) == (503, "model-busy")
        assert response.headers["Retry-After"] == "1"


@pytest.fixture
async def nowhere() -> AsyncIterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_provider_that_is_away_is_502(
    sqlite_url: str, wire: str, providers: Providers, nowhere: str
) -> None:
    away: dict[str, Any] = {name: nowhere for name in providers.settings if name.endswith("_url")}
    async with serving(sqlite_url, wire, providers, **away) as url, Client(url, "alice") as alice:
        response = await alice.chat("say Hello.")
        assert (response.status_code, problem_of(response)["type"]) == (502, FAILED)
        assert nowhere not in response.text


@pytest.fixture(scope="module", params=[30])
async def pair_service(
    request: pytest.FixtureRequest, sqlite_url: str, providers: Providers
) -> AsyncIterator[str]:
    """A service on two models. The first is waited for half of the time; a test that lets it pass gives less."""
    models = "openai:first, google:second"
    async with serving(sqlite_url, models, providers, chat_timeout=request.param) as url:
        yield url


class TestFallback:
    @pytest.fixture
    async def pair(self, pair_service: str) -> AsyncIterator[Client]:
        async with Client(pair_service, f"user-{uuid.uuid4().hex}") as client:
            yield client

    @pytest.mark.parametrize(
        ("trouble", "pair_service"),
        [("status 429 60", 30), ("status 503", 30), ("status 500", 30), ("end drop", 30), ("sleep 60", 8)],
        indirect=["pair_service"],
    )
    async def test_the_next_is_asked_when_one_is_down(
        self, pair: Client, providers: Providers, trouble: str
    ) -> None:
        mark = uuid.uuid4().hex
        answer = await pair.said(f"only first {trouble}\nsay {mark}")
        assert answer["response"] == mark
        assert [request.path.split("/")[1] for request in providers.of(mark)] == ["v1", "v1beta"]
        next_answer = await pair.said("say Back.", answer["conversation_id"])
        assert next_answer["response"] == "Back."
        assert providers.requests[-1].path == "/v1/chat/completions"

    @pytest.mark.parametrize("status", [400, 401, 403])
    async def test_no_other_is_asked_when_the_request_is_wrong(
        self, pair: Client, providers: Providers, status: int
    ) -> None:
        mark = uuid.uuid4().hex
        problem = problem_of(await pair.chat(f"only first status {status}\nsay {mark}"))
        assert problem["type"] == "model-misconfigured"
        assert tried(providers, mark) == 1

    async def test_no_other_is_asked_when_something_was_said(
        self, pair: Client, providers: Providers
    ) -> None:
        mark = uuid.uuid4().hex
        problem = problem_of(await pair.chat(f"say {mark}\nonly first end drop"))
        assert problem["type"] == TRUNCATED
        assert tried(providers, mark) == 1

    async def test_in_the_middle_of_a_turn_takes_the_calls_along(
        self, pair: Client, providers: Providers
    ) -> None:
        before = len(providers.requests)
        answer = await pair.said(
            'call add_task {"title": "milk"}\nonly first status 503\ncall list_tasks\nsay Done so.'
        )
        assert answer["response"] == "Done so."
        assert [call["name"] for call in answer["tool_calls"]] == ["add_task", "list_tasks"]
        asked = [request.path.split("/")[1] for request in providers.requests[before:]]
        assert asked == ["v1", "v1", "v1beta", "v1beta"]
        assert (await pair.said("say Back.", answer["conversation_id"]))["response"] == "Back."
        assert {request.refused for request in providers.requests[before:]} == {None}

    async def test_when_all_are_busy_the_delay_is_told(self, pair: Client, providers: Providers) -> None:
        mark = uuid.uuid4().hex
        response = await pair.chat(f"only first status 429 9\nonly second status 500\nsay {mark}")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "9")
        assert tried(providers, mark) == 2

    async def test_it_is_stored_who_answered(self, sqlite_url: str, pair: Client) -> None:
        answer = await pair.said("only first status 503\nsay Here.")
        model, state = await stored(sqlite_url, pair.user_id, answer["turn_id"])
        assert model == "google:second"
        assert json.dumps(state).count("Here.") == 1
