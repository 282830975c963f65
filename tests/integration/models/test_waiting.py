"""A turn that waits, in each wire format: what the model is told when it goes on, in whatever process."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatapi.agent.llm import MODEL_REQUESTS, LLMAgent
from tests.integration.models.conftest import WIRES, serving
from tests.integration.models.test_conversations import sent
from tests.support.providers.server import Providers
from tests.support.serving import DIES, Client, execute, serve, settings_for

CLOCK = {"name": "time_zone", "parameters": {"type": "object", "properties": {}}}
MESSAGE = """\
think The list has to be tidied.
say I will see to it.
call add_task {"title": "tea"}
call delete_task {"task_id": %d}
call time_zone
say All done."""


async def waiting_on(client: Client, message: str = MESSAGE) -> dict[str, Any]:
    """A turn with three calls at once: a free one, one that needs approval, and one that is the caller's."""
    task = (await client.post(client.mine("/tasks"), json={"title": "milk"})).json()
    body = {"message": message % task["id"], "client_tools": [CLOCK]}
    response = await client.post(client.mine("/chat"), json=body)
    assert response.status_code == 202, response.text
    return dict(response.json())


def answers_to(waiting: dict[str, Any], *, approved: bool) -> dict[str, Any]:
    approval, clock = waiting["pending"]
    return {
        "answers": [
            {"id": approval["id"], "approved": approved, "reason": "because I say so"},
            {"id": clock["id"], "output": {"zone": "Europe/Berlin"}},
        ]
    }


@pytest.mark.slow
@pytest.mark.parametrize("approved", [True, False])
async def test_goes_on_in_another_process_with_all_that_was_said(
    database_url: str, wire: str, providers: Providers, *, approved: bool
) -> None:
    user, before = f"user-{uuid.uuid4().hex}", len(providers.requests)
    options: Any = {"tool_approval": "delete_*"}
    async with serving(database_url, wire, providers, **options) as url, Client(url, user) as client:
        waiting = await waiting_on(client)
    assert waiting["response"] == "I will see to it."
    assert [call["name"] for call in waiting["tool_calls"]] == ["add_task"]
    assert [each["kind"] for each in waiting["pending"]] == ["approval", "client-tool"]
    async with serving(database_url, wire, providers, **options) as url, Client(url, user) as client:
        path = client.mine(f"/turns/{waiting['turn_id']}/answers")
        done = (await client.post(path, json=answers_to(waiting, approved=approved))).json()
        after = await client.said("say Bye.", waiting["conversation_id"])
        tasks = (await client.get(client.mine("/tasks"))).json()["items"]
    assert done["response"] == "I will see to it.\n\nAll done."
    assert [call["name"] for call in done["tool_calls"]] == ["add_task", "delete_task", "time_zone"]
    assert [task["title"] for task in tasks] == (["tea"] if approved else ["milk", "tea"])
    assert done["usage"] == {"input_tokens": 20, "output_tokens": 10}
    assert after["response"] == "Bye."
    first, second, third = providers.requests[before:]
    assert [first.refused, second.refused, third.refused] == [None] * 3
    assert sent(second)[: len(sent(first))] == sent(first)
    assert sent(third)[: len(sent(second))] == sent(second)
    told = json.dumps(sent(second)[len(sent(first)) :])
    assert "Europe/Berlin" in told
    assert ("because I say so" in told) is not approved


async def test_goes_on_with_another_providers_model(
    database_url: str, wire: str, providers: Providers
) -> None:
    user = f"user-{uuid.uuid4().hex}"
    other = WIRES[(WIRES.index(wire) + 1) % len(WIRES)]
    async with (
        serving(database_url, wire, providers, tool_approval="delete_*") as url,
        Client(url, user) as client,
    ):
        waiting = await waiting_on(client)
    async with serving(database_url, other, providers) as url, Client(url, user) as client:
        path = client.mine(f"/turns/{waiting['turn_id']}/answers")
        done = await client.post(path, json=answers_to(waiting, approved=True))
    assert done.status_code == 200, (providers.requests[-1].refused, sent(providers.requests[-1]))
    assert done.json()["response"].startswith("I will see to it.\n\n")
    assert providers.requests[-1].refused is None


async def test_that_was_left_behind_is_told_to_the_next_turn(
    database_url: str, wire: str, providers: Providers
) -> None:
    user = f"user-{uuid.uuid4().hex}"
    async with (
        serving(database_url, wire, providers, tool_approval="delete_*") as url,
        Client(url, user) as client,
    ):
        waiting = await waiting_on(client)
        after = await client.said("say Bye.", waiting["conversation_id"])
    assert after["response"] == "Bye."
    assert providers.requests[-1].refused is None
    assert "nobody had answered" in json.dumps(sent(providers.requests[-1]))


class Till:
    """A function of an assistant's own, which can be stopped in the middle."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def pay(self, amount: int) -> str:
        """Pays."""
        self.paid.append(amount)
        self.begun.set()
        await self.may_end.wait()
        return f"paid {amount}"


async def test_an_own_function_is_called_once_whatever_dies(database_url: str, providers: Providers) -> None:
    settings = settings_for(database_url, tool_approval="pay", **providers.settings)
    till, user = Till(), f"user-{uuid.uuid4().hex}"

    @asynccontextmanager
    async def replica() -> AsyncIterator[Client]:
        agent = LLMAgent("openai:gpt-5-mini", tools=[till.pay], settings=settings)
        async with serve(settings, agent) as url, Client(url, user) as client:
            yield client

    async with replica() as one, replica() as other:
        message = 'call pay {"amount": "x"}\ncall pay {"amount": 1}\nsay Done.'
        waiting = (await one.chat(message)).json()
        assert [each["error"] for each in waiting["tool_calls"]] == ["amount: 'x' is not of type 'integer'"]
        given = {"answers": [{"id": waiting["pending"][0]["id"], "approved": True}]}
        path = one.mine(f"/turns/{waiting['turn_id']}/answers")
        till.may_end.set()
        done = (await other.post(path, json=given)).json()
        assert (done["response"], done["tool_calls"][1]["result"]) == ("Done.", "paid 1")
        assert (await one.post(path, json=given)).json() == done
        assert till.paid == [1]

        till.begun.clear()
        till.may_end.clear()
        waiting = (await one.chat('call pay {"amount": 2}\nsay Done.')).json()
        given = {"answers": [{"id": waiting["pending"][0]["id"], "approved": True}]}
        path = one.mine(f"/turns/{waiting['turn_id']}/answers")
        first = asyncio.create_task(one.post(path, json=given))
        await till.begun.wait()
        await execute(database_url, f"{DIES} AND id = {waiting['turn_id']}")
        done = (await other.post(path, json=given)).json()
        assert "whether it took effect is not known" in done["tool_calls"][0]["error"]
        assert "is not known" in json.dumps(sent(providers.requests[-1]))
        till.may_end.set()
        assert (await first).status_code == 409
        assert till.paid == [1, 2]
        assert (await one.messages(done["conversation_id"]))[1]["tool_calls"] == done["tool_calls"]


async def test_a_model_that_asks_for_ever_is_stopped_before_the_last_approval(
    sqlite_url: str, providers: Providers
) -> None:
    user = f"user-{uuid.uuid4().hex}"
    async with (
        serving(sqlite_url, WIRES[0], providers, tool_approval="list_tasks") as url,
        Client(url, user) as client,
    ):
        told = (await client.chat("again list_tasks")).json()
        for _ in range(MODEL_REQUESTS - 1):
            assert told["status"] == "waiting"
            path = client.mine(f"/turns/{told['turn_id']}/answers")
            given = {"id": told["pending"][0]["id"], "approved": True}
            told = (await client.post(path, json={"answers": [given]})).json()
        assert told["type"].endswith("model-looped")
        (_, answer) = await client.messages(told["conversation_id"])
    assert [call.get("error") is None for call in answer["tool_calls"]] == [True] * 9 + [False]
