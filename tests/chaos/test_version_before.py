"""An upgrade to the version that lets turns wait, while a replica of the version before goes on beside it."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support import before
from tests.support.citus import Citus
from tests.support.serving import SLOW_MACHINE, Client, serve, settings_for
from tests.support.sse import resumed

pytestmark = pytest.mark.slow

if why := before.missing() or (Citus.of_environment() and "The version before knows no Citus."):
    pytest.skip(why, allow_module_level=True)

# Looks at the waits after each turn. Only then: nothing here runs out of time.
LOOKS = replace(SLOW_MACHINE, expiry=0)


async def asked(client: Client, conversation_id: int | None = None) -> dict[str, Any]:
    task_id = (await client.post(client.mine("/tasks"), json={"title": "milk"})).json()["id"]
    waiting = await client.chat(
        f'say Hm.\nask delete_task {{"task_id": {task_id}}}\nwait\nsay Done.', conversation_id
    )
    assert waiting.status_code == 202
    return dict(waiting.json())


async def yes(client: Client, waiting: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    given = {"id": waiting["pending"][0]["id"], "approved": True}
    answered = await client.post(
        client.mine(f"/turns/{waiting['turn_id']}/answers"), json={"answers": [given]}
    )
    return answered.status_code, answered.json()


def kind(problem: dict[str, Any]) -> str:
    return str(problem["type"]).rpartition(":")[2]


async def test_both_take_a_waiting_turn_for_one_that_holds_its_conversation(
    bare_database_url: str, directory: Path
) -> None:
    settings = settings_for(bare_database_url, tool_approval="destructive")
    async with (
        before.process(directory, bare_database_url, {}) as process,
        Client(await process.ready(), "alice") as old,
    ):
        first = await old.said('call add_task {"title": "milk"}')
        async with serve(settings, patience=LOOKS) as url, Client(url, "alice") as new:
            assert (await old.get("/health/ready")).status_code == 200
            assert len(await new.messages(first["conversation_id"], format="ui")) == 2
            conversation = first["conversation_id"]

            # It is listed as running, and nothing begins beside it.
            waiting = await asked(new, conversation)
            assert [each["status"] for each in await old.messages(conversation)][2:] == ["running"] * 2
            assert len(await old.messages(conversation, format="ui")) == 4
            refused = await old.chat("say Hello.", conversation)
            assert (refused.status_code, kind(refused.json())) == (409, "turn-in-progress")
            anew = await old.post(old.mine(f"/turns/{waiting['turn_id']}/regenerate"))
            assert (anew.status_code, kind(anew.json())) == (409, "turn-in-progress")

            # Once it has gone on, both show the same, and go on from it.
            assert (await yes(new, waiting))[0] == 200
            assert [each["content"] for each in await old.messages(conversation)] == [
                each["content"] for each in await new.messages(conversation)
            ]
            assert (await resumed(old, conversation, waiting["turn_id"]))[-1]["type"] == "finish"
            assert (await old.said("say Hello.", conversation))["response"] == "Hello."

            # A cancel by the old one is the end: no answer goes on, and the next look ends the turn.
            waiting = await asked(new, conversation)
            cancelled = await old.post(old.mine(f"/turns/{waiting['turn_id']}/cancel"))
            assert cancelled.status_code == 202
            status, problem = await yes(new, waiting)
            assert (status, kind(problem)) == (409, "not-waiting")
            await new.said("say Hello.")
            stream = await old.get(old.mine(f"/chat/{conversation}/stream"))  # open until the turn has ended
            assert stream.status_code in {200, 204}
            *_, shown = await new.messages(conversation, format="ui")
            assert (shown["metadata"]["status"], shown["parts"][-1]["state"]) == (
                "cancelled",
                "output-denied",
            )
            assert (await old.said("say Hello.", conversation))["response"] == "Hello."

            # A new message in the place of an answer ends it as cancelled, too, if it comes first.
            waiting = await asked(new, conversation)
            await old.post(old.mine(f"/turns/{waiting['turn_id']}/cancel"))
            await new.said("say Hello.", conversation)
            assert (await new.messages(conversation))[-3]["status"] == "cancelled"

            # Deleting and erasing leave nothing, by either.
            waiting = await asked(new)
            await old.delete(old.mine(f"/conversations/{waiting['conversation_id']}"))
            assert (await yes(new, waiting))[0] == 404
            waiting = await asked(new)
            assert (await old.delete("/api/alice", params={"confirm": "alice"})).is_success
            assert (await yes(new, waiting))[0] == 404
            assert (await new.get(new.mine("/turns"))).json()["items"] == []
