"""Whole conversations in each wire format: tools, usage, and earlier turns sent back exactly."""

import asyncio
import json
import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from sqlalchemy import and_, select

from chatapi.db.models import Message, Turn
from chatapi.patience import Patience
from tests.integration.models.conftest import WIRES, ServiceOn, serving
from tests.support.databases import open_database
from tests.support.providers.caches import unmarked
from tests.support.providers.server import Providers, Request
from tests.support.serving import Client, anybody, settings_for, token_for

MESSAGES = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/messages": "messages"}
FIRST_TURN = """\
think The user wants milk.
say I will see to it.
call add_task {"title": "milk"}
call add_task {"title": ""}
think One of them failed.
call list_tasks
say You have milk."""


def sent(request: Request) -> list[Any]:
    messages: list[Any] = unmarked(request.body[MESSAGES.get(request.path, "contents")])
    return messages


async def stored(database_url: str, user_id: str, turn_id: int) -> tuple[str, Any]:
    """The turn's model, and what its provider wants back."""
    database = open_database(settings_for(database_url))
    async with database.transaction(user_id) as session:
        found = await session.execute(
            select(Turn.model, Message.provider_state)
            .join(Message, and_(Message.turn_id == Turn.id, Message.user_id == Turn.user_id))
            .where(Turn.id == turn_id, Turn.user_id == user_id, Message.role == "assistant")
        )
        model, state = found.one()
    await database.close()
    return model, state


class TestConversation:
    async def test_with_tools_goes_on_after_a_restart_with_all_that_was_said(
        self, database_url: str, wire: str, providers: Providers
    ) -> None:
        user, before = f"user-{uuid.uuid4().hex}", len(providers.requests)
        async with serving(database_url, wire, providers) as url, Client(url, user) as client:
            first = await client.said(FIRST_TURN)
        async with serving(database_url, wire, providers) as url, Client(url, user) as client:
            second = await client.said("call list_tasks\nsay Still milk.", first["conversation_id"])
            third = await client.said("say Bye.", first["conversation_id"])
        assert first["response"] == "I will see to it.\n\nYou have milk."
        added, refused, listed = first["tool_calls"]
        assert added["result"]["title"] == "milk"
        assert "title" in refused["error"]
        assert listed["result"]["items"] == [added["result"]]
        assert first["usage"] == {"input_tokens": 30, "output_tokens": 15}
        assert (second["response"], third["response"]) == ("Still milk.", "Bye.")
        requests = providers.requests[before:]
        assert [request.refused for request in requests] == [None] * 6
        for earlier, later in pairwise(requests):
            assert sent(later)[: len(sent(earlier))] == sent(earlier)
        model, state = await stored(database_url, user, first["turn_id"])
        assert model == wire
        assert "milk" in json.dumps(state)

    async def test_a_refused_call_reaches_the_model_as_its_result(
        self, talker: Client, providers: Providers
    ) -> None:
        answer = await talker.said('call complete_task {"task_id": 999999999}\nsay There is none.')
        assert answer["response"] == "There is none."
        assert "There is no task 999999999 of yours." in json.dumps(sent(providers.requests[-1])[-1])

    async def test_what_is_no_json_object_is_asked_for_again(self, talker: Client, wire: str) -> None:
        if not wire.startswith("google"):  # whose calls are objects always
            answer = await talker.said("broken add_task\nsay Sorry.")
            assert (answer["response"], answer["tool_calls"]) == ("Sorry.", [])

    async def test_a_tool_that_is_not_there_is_told_so(self, talker: Client) -> None:
        assert (await talker.said("call no_such_tool\nsay Sorry."))["response"] == "Sorry."

    async def test_an_answer_without_a_word_is_asked_for_again(
        self, talker: Client, providers: Providers
    ) -> None:
        answer = await talker.said(f"silent 1\nsay {uuid.uuid4().hex}")
        assert len(answer["response"]) == 32
        again, once_more = providers.of(answer["response"])
        assert sent(again) == sent(once_more)
        assert (await talker.said("say Next.", answer["conversation_id"]))["response"] == "Next."

    async def test_no_model_is_offered_a_user(self, talker: Client, providers: Providers) -> None:
        await talker.said("say Hello.")
        request = providers.requests[-1]
        assert "user_id" not in json.dumps(request.body)
        assert talker.user_id not in json.dumps(request.body)

    async def test_of_two_users_at_once_never_mix(self, wire_service: str) -> None:
        users = [Client(wire_service, f"user-{uuid.uuid4().hex}") for _ in range(2)]
        for _ in range(3):
            await asyncio.gather(
                *(
                    user.said(f'sleep 0.05\ncall add_task {{"title": "{user.user_id}"}}\ncall list_tasks')
                    for user in users
                )
            )
        for user in users:
            tasks = (await user.get(user.mine("/tasks"))).json()["items"]
            assert [task["title"] for task in tasks] == [user.user_id] * 3
            await user.aclose()


class TestCancel:
    async def test_keeps_what_was_said_and_done_and_the_conversation_goes_on(
        self, talker: Client, providers: Providers
    ) -> None:
        mark = uuid.uuid4().hex
        conversation_id = (await talker.said("say Hello."))["conversation_id"]
        turn = asyncio.create_task(
            talker.chat(
                f'say Once {mark}.\ncall add_task {{"title": "milk"}}\nsleep 30\nsay End.', conversation_id
            )
        )
        while len(providers.of(f"Once {mark}")) < 2:  # noqa: ASYNC110 - it has called, and is asked what to say now
            await asyncio.sleep(0.02)
        *_, running = await talker.messages(conversation_id)
        await talker.post(talker.mine(f"/turns/{running['turn_id']}/cancel"))
        assert (await asyncio.wait_for(turn, 20)).json()["type"].endswith("turn-cancelled")
        *_, answer = await talker.messages(conversation_id)
        assert (answer["content"], answer["status"]) == (f"Once {mark}.", "cancelled")
        assert (await talker.said("say On.", conversation_id))["response"] == "On."
        assert providers.requests[-1].refused is None
        assert f"Once {mark}." in json.dumps(sent(providers.requests[-1]))


class TestProviderChange:
    """A conversation goes on with another provider, which gets the text, the calls and the results, and no more."""

    @pytest.mark.parametrize("other", WIRES)
    async def test_keeps_the_conversation(
        self, service_on: ServiceOn, wire: str, other: str, providers: Providers
    ) -> None:
        user, before = f"user-{uuid.uuid4().hex}", len(providers.requests)
        async with Client(await service_on(wire), user) as client:
            conversation_id = (await client.said(FIRST_TURN))["conversation_id"]
        async with Client(await service_on(other), user) as client:
            assert (await client.said("say Bye.", conversation_id))["response"] == "Bye."
        assert [request.refused for request in providers.requests[before:]] == [None] * 4
        told = json.dumps(sent(providers.requests[-1]))
        for text in ("I will see to it.", "You have milk.", "add_task", "list_tasks", "Expected `str`"):
            assert text in told


@pytest.mark.slow
class TestLoad:
    async def test_a_hundred_turns_with_a_slow_model_on_five_connections(
        self, new_database: Callable[[], str], providers: Providers
    ) -> None:
        """The model answers nobody before all hundred are with it. A connection that is held meanwhile would keep them apart."""
        patience = Patience(database_pool=60)  # the machine that runs the tests may be slow
        database_url = await asyncio.to_thread(new_database)
        # SQLite keeps its own two: five that wait for its one writer's place do not take turns, and one may starve.
        pool_size = None if database_url.startswith("sqlite") else 5
        users = [f"user-{number}" for number in range(100)]
        async with (
            serving(
                database_url,
                "openai:gpt-5-mini",
                providers,
                patience,
                db_pool_size=pool_size,
                chat_timeout=300,
            ) as url,
            anybody(url, timeout=300, limits=httpx.Limits(max_connections=None)) as client,
        ):
            responses = await asyncio.gather(
                *(
                    client.post(
                        "/api/chat",
                        json={"message": f"meet 100\nsay {user}"},
                        headers={"Authorization": f"Bearer {token_for(user)}"},
                    )
                    for user in users
                )
            )
        assert [response.status_code for response in responses] == [200] * 100
        assert [response.json()["response"] for response in responses] == users
