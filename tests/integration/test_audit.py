"""The audit trail: who did what to which object, and who tried."""

import json
from pathlib import Path
from typing import Any

from tests.support.logs import heard
from tests.support.serving import SECRET, Client, Process, anybody, serve, settings_for, token_for

WRITTEN = "buy-secret-milk"  # what a user writes; it must never be in the trail


def trail(messages: list[str]) -> list[dict[str, Any]]:
    """The events heard, each checked for what all have, without what differs from run to run."""
    events = []
    for message in messages:
        assert WRITTEN not in message
        assert "eyJ" not in message  # how every JWT begins
        assert SECRET not in message
        event = json.loads(message)
        assert event.pop("event") == "audit"
        assert event.pop("time").endswith("+00:00")
        assert event.pop("address") == "127.0.0.1"
        assert len(event.pop("request_id")) == 32
        events.append(event)
    return events


async def test_has_what_was_done_over_rest(alice: Client) -> None:
    conversation_id = (await alice.said(f"say {WRITTEN}"))["conversation_id"]
    with heard("chatapi.audit") as messages:
        task_id = (await alice.post(alice.mine("/tasks"), json={"title": WRITTEN})).json()["id"]
        task, conversation = alice.mine(f"/tasks/{task_id}"), alice.mine(f"/conversations/{conversation_id}")
        await alice.get(task)  # reading changes nothing
        await alice.put(task, json={"title": WRITTEN})
        await alice.patch(task, json={"description": WRITTEN})
        await alice.patch(f"{task}/complete")
        await alice.delete(task)
        await alice.delete(task)
        await alice.patch(conversation, json={"title": WRITTEN})
        await alice.patch(conversation, json={"title": ""})
        await alice.delete(conversation)
        await alice.options(conversation)
    who = {"user_id": alice.user_id}
    of_task, of_conversation = {**who, "task_id": task_id}, {**who, "conversation_id": conversation_id}
    assert trail(messages) == [
        {"action": "task.added", "outcome": "success", "status": 201, **of_task},
        {"action": "task.changed", "outcome": "success", "status": 200, **of_task},
        {"action": "task.changed", "outcome": "success", "status": 200, **of_task},
        {"action": "task.completed", "outcome": "success", "status": 200, **of_task},
        {"action": "task.deleted", "outcome": "success", "status": 204, **of_task},
        {"action": "task.deleted", "outcome": "failure", "status": 404, **of_task},
        {"action": "conversation.changed", "outcome": "success", "status": 200, **of_conversation},
        {"action": "conversation.changed", "outcome": "failure", "status": 422, **of_conversation},
        {"action": "conversation.deleted", "outcome": "success", "status": 204, **of_conversation},
    ]


async def test_has_turns_and_what_their_tools_did(alice: Client) -> None:
    with heard("chatapi.audit") as messages:
        answer = await alice.said(
            f'call add_task {{"title": "{WRITTEN}"}}\ncall list_tasks {{}}\n'
            'call delete_task {"task_id": 999999999}\ncall complete_task {"task_id": ["x"]}\ncall no_such_tool {}'
        )
        failed = (await alice.chat(f"say {WRITTEN}\ncrash", answer["conversation_id"])).json()
    ids = {
        "user_id": alice.user_id,
        "conversation_id": answer["conversation_id"],
        "turn_id": answer["turn_id"],
    }
    again = {**ids, "turn_id": failed["turn_id"]}
    task_id = answer["tool_calls"][0]["result"]["id"]
    assert trail(messages) == [
        {"action": "turn.begun", "outcome": "success", **ids},
        {"action": "task.added", "outcome": "success", "task_id": task_id, **ids},
        {"action": "task.deleted", "outcome": "failure", "task_id": 999999999, **ids},
        {"action": "task.completed", "outcome": "failure", **ids},
        {"action": "turn.ended", "outcome": "success", **ids},
        {"action": "turn.begun", "outcome": "success", **again},
        {"action": "turn.ended", "outcome": "failure", "reason": "model-failed", **again},
    ]


async def test_has_who_was_refused(alice: Client, bob: Client) -> None:
    denied = {"outcome": "denied", "method": "DELETE", "route": "/api/{user_id}/tasks/{task_id}"}
    path = alice.mine("/tasks/1")
    with heard("chatapi.audit") as messages:
        async with anybody(alice.base_url) as nobody:
            await nobody.delete(path)
            await nobody.delete(path, headers={"Authorization": f"Bearer {token_for('alice')}x"})
        await bob.delete(path)
    of_alice = {"path_user_id": alice.user_id}
    unsigned = "the token is malformed or its signature is wrong"
    assert trail(messages) == [
        {"action": "sign_in.denied", "status": 401, "reason": "no_token", **denied, **of_alice}
        | {"detail": "Send a token: Authorization: Bearer …"},
        {"action": "sign_in.denied", "status": 401, "reason": "invalid_token", **denied, **of_alice}
        | {"detail": unsigned},
        {"action": "path.denied", "status": 403, "reason": "not-your-path", **denied, **of_alice}
        | {"user_id": bob.user_id},
    ]


async def test_has_who_was_limited(tmp_path: Path) -> None:
    settings = settings_for(f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}", rate_limit="1/hour")
    async with serve(settings) as url, Client(url, "alice") as alice:
        await alice.get("/api/me")
        with heard("chatapi.audit") as messages:
            await alice.get("/api/me")
    assert trail(messages) == [
        {
            "action": "rate_limit.exceeded",
            "outcome": "denied",
            "status": 429,
            "reason": "rate-limited",
            "policy": "default",
            "method": "GET",
            "route": "/api/me",
            "user_id": "alice",
        }
    ]


async def test_names_the_request_as_its_response_does(alice: Client) -> None:
    with heard("chatapi.audit") as messages:
        response = await alice.chat("say Hello.", headers={"X-Request-ID": "my-own.1"})
    assert response.headers["X-Request-ID"] == "my-own.1"
    assert [json.loads(message)["request_id"] for message in messages] == ["my-own.1", "my-own.1"]


async def test_is_a_line_of_json_each_on_standard_output(directory: Path) -> None:
    """Whatever a caller puts into a path."""
    async with Process(directory) as process:
        async with anybody(await process.ready()) as nobody:
            await nobody.get("/api/%0A%7B%22event%22:%22audit%22%7D/tasks")
        process.terminate()
        lines = [json.loads(line) for line in await process.lines()]
    (event,) = (line for line in lines if line["event"] == "audit")
    assert (event["action"], event["path_user_id"]) == ("sign_in.denied", '\n{"event":"audit"}')
