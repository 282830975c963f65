"""Taking out all of a user's data, and erasing it."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select

from chatapi.account import service as account
from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools
from chatapi.db.database import Database
from chatapi.db.models import Conversation, Message, Turn, TurnChunk, User
from chatapi.db.owner import EVERYONE
from chatapi.files.service import FileService
from chatapi.files.storage import Storage
from tests.support.databases import open_database, rows_of
from tests.support.factories import QueuedTurnFactory, SummaryFactory, WaitFactory
from tests.support.files import uploaded
from tests.support.logs import heard
from tests.support.serving import Client, execute, serve, settings_for

COLUMNS_TOLD = {
    "conversation": {"id", "title", "created_at", "updated_at"},
    "turn": {"id", "conversation_id", "status", "model", "usage", "error", "created_at", "finished_at"},
    "message": {"id", "conversation_id", "turn_id", "role", "content", "tool_calls", "status", "created_at"},
    "feedback": {"conversation_id", "message_id", "rating", "comment", "updated_at"},
    "tool_call": {"turn_id", "position", "call_id", "name", "arguments", "result", "error", "created_at"},
    "file": {"id", "name", "media_type", "size", "sha256", "created_at", "turn_id", "sent_at"},
    "task": {"id", "title", "description", "completed", "created_at", "updated_at"},
    "api_key": {"id", "name", "prefix", "created_at", "expires_at", "last_used_at"},
    "usage_day": {"day", "model", "turns", "input_tokens", "output_tokens", "cost_picodollars", "unpriced"},
    "usage_conversation": {"day", "conversation_id", "turns", "input_tokens", "output_tokens"},
}


class GatedAgent:
    """Begins, waits until it is let through, and then does what would bring data back."""

    model = "gated"

    def __init__(self) -> None:
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        self.begun.set()
        await self.gate.wait()
        if prompt.message == "call":
            await tools.call("add_task", {"title": "milk"})
        yield TextDelta("Done.")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(settings_for(database_url))
    yield database
    await database.close()


async def fill(alice: Client) -> None:
    """Some of everything."""
    answer = await alice.said('call add_task {"title": "milk"}\ncall delete_task {"task_id": 999999999}')
    await alice.said("say Hello.", answer["conversation_id"])
    await alice.chat("crash", answer["conversation_id"])
    again = await alice.said("say Again.")
    rating = {"rating": "down", "comment": "Not again"}
    await alice.put(alice.mine(f"/messages/{again['message_id']}/feedback"), json=rating)
    await alice.post(alice.mine("/tasks"), json={"title": "bread", "description": "rye"})
    await uploaded(alice, b"milk")
    await alice.post(alice.mine("/keys"), json={"name": "a program"})


async def leave_chunks(database: Database, user_id: str) -> None:
    """As a process leaves them that dies in the middle of a turn, here of one that has waited, with another queued."""
    async with database.transaction(user_id) as session:
        turn = (await session.scalars(select(Turn).where(Turn.user_id == user_id).limit(1))).one()
        ids = {"turn_id": turn.id, "user_id": user_id}
        session.add(TurnChunk(**ids, run_id="dead", position=0, events=[]))
        session.add(WaitFactory.build(**ids, conversation_id=turn.conversation_id))
        queued = {"user_id": user_id, "conversation_id": turn.conversation_id}
        session.add(QueuedTurnFactory.build(id=-turn.id, **queued))
        session.add(SummaryFactory.build(turn_id=turn.id, **queued))


async def exported(client: Client) -> list[dict[str, Any]]:
    response = await client.get(client.mine("/export"))
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert response.headers["content-disposition"].startswith("attachment")
    return [json.loads(line) for line in response.text.splitlines()]


class TestExport:
    async def test_is_everything_and_nobody_elses(
        self, alice: Client, bob: Client, database: Database
    ) -> None:
        await fill(alice)
        await fill(bob)
        first, *records, last = await exported(alice)
        in_small_pages = b"".join(
            [each async for each in account.export(database, alice.user_id, page_size=2)]
        )
        assert [json.loads(each) for each in in_small_pages.splitlines()] == [first, *records, last]
        assert first == {"record": "export", "version": 1, "user_id": alice.user_id}
        assert last == {"record": "end", "records": len(records)}
        found = {name: [r for r in records if r["record"] == name] for name in COLUMNS_TOLD}
        there = await rows_of(database, alice.user_id)
        for name, columns in COLUMNS_TOLD.items():
            assert len(found[name]) == there[name if name == "feedback" else f"{name}s"]
            for record in found[name]:
                assert columns <= record.keys()
                assert not {"user_id", "worker_id", "run_id", "key"} & record.keys()
        for listed, path in (("task", "/tasks"), ("conversation", "/conversations")):
            items = (await alice.get(alice.mine(path))).json()["items"]
            assert {item["id"] for item in items} == {record["id"] for record in found[listed]}
        crashed = next(record for record in found["message"] if record["content"] == "crash")
        assert crashed["status"] == "failed"
        assert [call["name"] for call in found["tool_call"]] == ["add_task", "delete_task"]
        assert {turn["model"] for turn in found["turn"]} == {"commanded"}

    async def test_of_a_stranger_is_empty(self, bob: Client) -> None:
        assert [record["record"] for record in await exported(bob)] == ["export", "end"]

    @pytest.mark.slow
    async def test_of_many_messages_is_never_in_memory_at_once(
        self, database: Database, alice: Client
    ) -> None:
        await alice.get(alice.mine("/tasks"))
        many = 20_000  # 40 MB; five times as many took no more memory
        async with database.transaction(EVERYONE) as session:
            user_id = alice.user_id
            await session.execute(insert(User).values(id=user_id))
            conversation_id = await session.scalar(
                insert(Conversation).values(user_id=user_id).returning(Conversation.id)
            )
            turn = {
                "user_id": user_id,
                "conversation_id": conversation_id,
                "status": "completed",
                "worker_id": "w",
            }
            turn_id = await session.scalar(
                insert(Turn).values(**turn, run_id=user_id, model="m").returning(Turn.id)
            )
            message = {"user_id": user_id, "conversation_id": conversation_id, "turn_id": turn_id}
            message |= {"role": "user", "content": "x" * 2_000}
            await session.execute(insert(Message), [message] * many)
        size, lines, last = 0, 0, b""
        tracemalloc.start()
        try:
            async for piece in account.export(database, alice.user_id):
                size, lines, last = size + len(piece), lines + piece.count(b"\n"), piece
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert json.loads(last) == {"record": "end", "records": many + 2}
        assert (lines, size > 40_000_000) == (many + 4, True)
        assert peak < 8_000_000

    async def test_that_breaks_has_no_end_and_is_audited_as_failed(self, empty_database_url: str) -> None:
        async with serve(settings_for(empty_database_url)) as url, Client(url, "alice") as alice:
            await fill(alice)
            await execute(empty_database_url, "ALTER TABLE tasks RENAME TO errands")  # the last page fails
            with heard("chatapi.audit") as messages, pytest.raises(httpx.RemoteProtocolError):
                await exported(alice)
        assert json.loads(messages[-1])["action"] == "account.exported"
        assert json.loads(messages[-1])["outcome"] == "failure"


class TestErasure:
    async def test_leaves_nothing_and_nobody_else_alone(
        self, alice: Client, bob: Client, database: Database
    ) -> None:
        await fill(alice)
        await fill(bob)
        of_bob = await rows_of(database, bob.user_id)
        await leave_chunks(database, alice.user_id)
        assert all((await rows_of(database, alice.user_id)).values())
        settings = settings_for("sqlite://")
        files = FileService(database, Storage(settings.files_url), settings)
        await account.erase(database, files, alice.user_id, batch=2)
        assert not any((await rows_of(database, alice.user_id)).values())
        await fill(alice)
        with heard("chatapi.audit") as messages:
            for _ in range(2):  # again is the same
                response = await alice.delete(alice.mine(""), params={"confirm": alice.user_id})
                assert (response.status_code, response.content) == (204, b"")
        assert [(json.loads(m)["action"], json.loads(m)["user_id"]) for m in messages] == [
            ("account.erased", alice.user_id)
        ] * 2
        assert not any((await rows_of(database, alice.user_id)).values())
        assert await rows_of(database, bob.user_id) == of_bob
        await fill(alice)  # who comes back begins anew

    @pytest.mark.parametrize("query", [{}, {"confirm": ""}, {"confirm": "yes"}, {"confirm": "bob"}])
    async def test_without_confirmation_is_422_and_erases_nothing(
        self, alice: Client, query: dict[str, str]
    ) -> None:
        await alice.post(alice.mine("/tasks"), json={"title": "milk"})
        response = await alice.delete(alice.mine(""), params=query)
        assert response.status_code == 422
        assert [each["path"] for each in response.json()["errors"]] == ["confirm"]
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1

    @pytest.mark.parametrize("message", ["call", "say"])
    async def test_ends_a_turn_under_way_which_brings_nothing_back(
        self, database_url: str, database: Database, message: str
    ) -> None:
        agent = GatedAgent()
        async with serve(settings_for(database_url), agent) as url, Client(url, f"gated-{message}") as alice:
            turn = asyncio.create_task(alice.chat(message))
            await agent.begun.wait()
            assert (await alice.delete(alice.mine(""), params={"confirm": alice.user_id})).status_code == 204
            agent.gate.set()
            response = await turn
            assert (response.status_code, response.json()["type"]) == (
                409,
                "urn:chatapi:problem:turn-cancelled",
            )
            assert not any((await rows_of(database, alice.user_id)).values())

    async def test_while_turns_begin_is_no_defect_and_leaves_no_half(
        self, alice: Client, database: Database
    ) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        work: list[Any] = []
        for number in range(8):
            work.append(alice.chat(f'call add_task {{"title": "{number}"}}'))
            work.append(alice.chat("say Hello.", conversation_id))
            work.append(alice.post(alice.mine("/tasks"), json={"title": "milk"}))
            if number % 2:
                work.append(alice.delete(alice.mine(""), params={"confirm": alice.user_id}))
        responses = await asyncio.gather(*work)
        assert {response.status_code for response in responses} <= {200, 201, 204, 404, 409, 503}
        for response in responses:
            assert response.status_code != 503 or "Retry-After" in response.headers
        there = await rows_of(database, alice.user_id)
        assert there["users"] or not any(there.values())
        for _ in range(5):
            response = await alice.delete(alice.mine(""), params={"confirm": alice.user_id})
        assert response.status_code == 204
        assert not any((await rows_of(database, alice.user_id)).values())
