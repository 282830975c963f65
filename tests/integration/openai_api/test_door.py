"""OpenAI's API below `/v1`, with OpenAI's own SDK: who is let in, the models, and how errors come out."""

from datetime import UTC, datetime, timedelta

import jwt
import openai
import pytest

from tests.support.agents import CommandedAgent
from tests.support.openai_sdk import sdk
from tests.support.serving import SECRET, Client, anybody, serve, settings_for


class SlashedAgent(CommandedAgent):
    model = "offline/assistant:1"


class TestModels:
    async def test_are_the_services_and_the_same_without_our_tools(self, service: str) -> None:
        async with sdk(service, "alice") as client:
            first, second = (await client.models.list()).data
            assert (first.id, first.object, first.owned_by) == ("commanded", "model", "chatapi")
            assert first.model_extra == {"name": "chatapi · commanded"}
            assert second.id == "commanded:no-tools"
            assert await client.models.retrieve(second.id) == second

    async def test_may_have_slashes_and_colons_in_their_ids(self, database_url: str) -> None:
        async with (
            serve(settings_for(database_url), SlashedAgent()) as url,
            sdk(url, "alice") as client,
            Client(url, "alice") as plain,
        ):
            assert (await client.models.retrieve(SlashedAgent.model)).id == SlashedAgent.model
            assert (await plain.get(f"/v1/models/{SlashedAgent.model}")).json()["id"] == SlashedAgent.model


async def test_a_session_of_open_webui_is_its_user(alice: Client) -> None:
    """With one secret on both sides, Open WebUI needs no key: it sends what its user has signed in with."""
    month = datetime.now(UTC) + timedelta(weeks=4)
    session = jwt.encode({"id": alice.user_id, "typ": "session", "exp": month}, SECRET)
    async with sdk(str(alice.base_url), "nobody", api_key=session) as client:
        assert len((await client.models.list()).data) == 2
    assert (await alice.get("/api/me", headers={"Authorization": f"Bearer {session}"})).json()["user_id"] == (
        alice.user_id
    )


class TestErrors:
    async def test_are_the_sdks_own(self, service: str) -> None:
        async with sdk(service, "alice") as client:
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.models.retrieve("gpt-9")
        assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
        assert unknown.value.param == "model"
        assert "'gpt-9'" in unknown.value.message
        async with sdk(service, "alice", api_key="nonsense") as stranger:
            with pytest.raises(openai.AuthenticationError) as refused:
                await stranger.models.list()
        assert (refused.value.code, refused.value.type) == ("invalid_api_key", "authentication_error")
        assert refused.value.request_id

    async def test_have_the_form_wherever_they_come_from(self, alice: Client, service: str) -> None:
        async with anybody(service) as nobody:
            answers = [
                (401, await nobody.get("/v1/models")),
                (404, await alice.get("/v1")),
                (404, await alice.get("/v1/nothing")),
                (405, await alice.post("/v1/models", json={})),
            ]
        for status, answer in answers:
            assert answer.status_code == status
            assert answer.headers["Content-Type"] == "application/json"
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert (await alice.get("/v1nothing")).headers["Content-Type"] == "application/problem+json"

    async def test_of_the_rate_limit_tell_the_sdk_when_to_come_again(self, database_url: str) -> None:
        settings = settings_for(database_url, rate_limit="2/minute")
        async with serve(settings) as url, sdk(url, "alice") as client:
            told = (await client.models.with_raw_response.list()).headers
            assert told["x-ratelimit-limit-requests"] == "2"
            assert told["x-ratelimit-remaining-requests"] == "1"
            assert told["x-ratelimit-reset-requests"].endswith("s")
            await client.models.list()
            with pytest.raises(openai.RateLimitError) as limited:
                await client.models.list()
            assert limited.value.code == "rate_limit_exceeded"
            assert 1 <= int(limited.value.response.headers["Retry-After"]) <= 60
            assert "x-should-retry" not in limited.value.response.headers
