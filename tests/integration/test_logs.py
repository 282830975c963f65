"""The log: a line a request, tracebacks always, and nothing that a user wrote."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import CommandedAgent
from tests.support.logs import heard
from tests.support.serving import SECRET, Client, Process, anybody, execute, serve, settings_for, token_for

COMMANDED = "tests.support.agents:CommandedAgent"
CANARY = "canary-7f3a"


def requests_of(messages: list[str]) -> list[dict[str, Any]]:
    """The access lines heard, each checked for what all have, without what differs from run to run."""
    events = []
    for message in messages:
        event = json.loads(message)
        assert event.pop("event") == "request"
        assert event.pop("logger") == "chatapi.access"
        assert event.pop("level") == "info"
        assert event.pop("time").endswith("Z")
        assert event.pop("duration_ms") > 0
        assert event.pop("request_id")
        events.append(event)
    return events


@pytest.fixture
async def talkative(tmp_path: Path) -> Any:
    settings = settings_for(
        f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}", log_level="INFO", log_format="json"
    )
    async with serve(settings) as url, Client(url, "alice") as alice:
        yield alice


class TestARequest:
    async def test_has_one_line_with_its_route_its_user_and_its_turn(self, talkative: Client) -> None:
        with heard("chatapi.access") as messages:
            answer = await talkative.said("say Hello.")
            task = (await talkative.post(talkative.mine("/tasks"), json={"title": "milk"})).json()
            await talkative.get(talkative.mine(f"/tasks/{task['id']}"))
            await talkative.get(talkative.mine("/tasks?limit=0"))
        user = {"user_id": "alice"}
        assert requests_of(messages) == [
            {"method": "POST", "route": "/api/{user_id}/chat", "status": 200, **user}
            | {"turn_id": answer["turn_id"]},
            {"method": "POST", "route": "/api/{user_id}/tasks", "status": 201, **user},
            {"method": "GET", "route": "/api/{user_id}/tasks/{task_id}", "status": 200, **user},
            {"method": "GET", "route": "/api/{user_id}/tasks", "status": 422, **user},
        ]

    async def test_has_one_line_whoever_answers_it(self, talkative: Client) -> None:
        with heard("chatapi.access") as messages:
            async with anybody(talkative.base_url) as nobody:
                await nobody.get("/nowhere")
                await nobody.head("/health")
                await nobody.request("PURGE", "/health")
                await nobody.get("/api/me")
                await nobody.get("/docs/assets/docs.js")
                await nobody.options("/health", headers={"Origin": "https://a.example"})
            # A line comes when its response has gone out, so that of a file may come after the next one's.
            while len(messages) < 6:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.01)
        lines = [(each["method"], each["route"], each["status"]) for each in requests_of(messages)]
        assert sorted(lines) == sorted(
            [
                ("GET", "unmatched", 404),
                ("HEAD", "/health", 200),
                ("other", "unmatched", 405),
                ("GET", "/api/me", 401),
                ("GET", "/docs/assets/{file_path}", 200),
                ("OPTIONS", "/health", 204),
            ]
        )

    async def test_is_named_as_in_its_response_and_in_the_audit_trail(self, talkative: Client) -> None:
        with heard("chatapi.access") as lines, heard("chatapi.audit") as events:
            response = await talkative.chat("say Hello.")
        named = {json.loads(line)["request_id"] for line in [*lines, *events]}
        assert named == {response.headers["X-Request-ID"]}

    async def test_has_none_above_the_level(self, tmp_path: Path) -> None:
        settings = settings_for(f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}", log_level="WARNING")
        async with serve(settings) as url, Client(url, "alice") as alice:
            with heard("chatapi.access") as messages:
                await alice.get("/api/me")
        assert messages == []


async def test_nothing_that_a_user_wrote_is_in_the_output_of_a_process(
    new_database: Callable[[], str], directory: Path
) -> None:
    """Neither when all is well, nor in the traceback of an assistant's or a database's error."""
    database_url = await asyncio.to_thread(new_database)
    environ = {
        "DATABASE_URL": database_url,
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": COMMANDED,
        "MIGRATE": "auto",
    }
    header = {"X-Other": CANARY, "Cookie": f"session={CANARY}"}
    async with Process(directory, environ) as process:
        async with Client(await process.ready(), "alice") as alice:
            conversation_id = (await alice.said_with({"headers": header}, f"say {CANARY}"))["conversation_id"]
            assert (await alice.chat(f"crash {CANARY}", conversation_id)).status_code == 502
            await alice.said(f'call add_task {{"title": "{CANARY}"}}\ncall {CANARY} {{"x": "{CANARY}"}}')
            await alice.patch(alice.mine(f"/conversations/{conversation_id}"), json={"title": CANARY})
            assert (await alice.get(alice.mine(f"/tasks?cursor={CANARY}"))).status_code == 422
            assert (await alice.get(f"/{CANARY}")).status_code == 404
            assert (await alice.post(alice.mine("/tasks"), content=f"{{{CANARY}")).status_code == 422
            stranger = {"Authorization": f"Bearer {token_for(CANARY)}x"}
            assert (await alice.get("/api/me", headers=stranger)).status_code == 401
            await execute(database_url, "DROP TABLE tasks")
            assert (await alice.post(alice.mine("/tasks"), json={"title": CANARY})).status_code == 500
        process.terminate()
        output = await process.lines()
    assert CANARY not in "".join(output)
    assert "eyJ" not in "".join(output)  # how every JWT begins
    events = [json.loads(line) for line in output]
    assert len([event for event in events if event["event"] == "request"]) == 9

    (agent,) = (event for event in events if event["event"].startswith("The agent failed"))
    assert "Traceback (most recent call last)" in agent["exception"]
    assert agent["exception"].endswith("builtins.RuntimeError")
    assert (agent["user_id"], agent["turn_id"]) == ("alice", 2)

    (defect,) = (event for event in events if event["event"] == "A defect: POST /api/{user_id}/tasks")
    assert "in insert_for_user" in defect["exception"]
    assert "INSERT INTO tasks" in defect["exception"]
    (line,) = (event for event in events if event["event"] == "request" and event["status"] == 500)
    assert line["request_id"] == defect["request_id"]


async def test_for_reading_a_line_is_no_json(directory: Path) -> None:
    async with Process(directory, {"LOG_FORMAT": "console", "CHAT_MODEL": COMMANDED}) as process:
        url = await process.ready()
        async with anybody(url) as nobody:
            await nobody.get("/api/me")
        process.terminate()
        *_, audit, line = [text for text in await process.lines() if "/api/me" in text]
    assert json.loads(audit)["action"] == "sign_in.denied"
    assert "route=/api/me" in line
    assert "\x1b" not in line  # colours are for terminals


async def test_of_libraries_only_warnings_are_heard(tmp_path: Path) -> None:
    """Some log bodies at lower levels."""
    settings = settings_for(f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}", log_level="DEBUG")
    async with serve(settings, CommandedAgent()):
        assert logging.getLogger("chatapi.turns.service").isEnabledFor(logging.DEBUG)
        for name in ("openai", "httpx", "sqlalchemy.engine", "mcp"):
            assert logging.getLogger(name).getEffectiveLevel() == logging.WARNING, name
