"""Streams read from another process than the one that runs the turn, or later."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools
from chatapi.app import app_of
from chatapi.db.models import Turn, TurnChunk
from chatapi.db.owner import EVERYONE
from chatapi.errors.turns import StreamNotRead
from chatapi.patience import Patience
from chatapi.services import Services
from chatapi.turns import live
from chatapi.turns.store import TurnStore, turn_store
from chatapi.turns.store.live import Chunk as Written
from chatapi.turns.store.live import Place, Watched
from chatapi.turns.store.postgres import PostgresTurnStore
from tests.support.agents import CommandedAgent, Gate
from tests.support.databases import open_database
from tests.support.serving import (
    DIES,
    GATED,
    SECRET,
    SLOW_MACHINE,
    Client,
    Process,
    execute,
    serve,
    serving,
    settings_for,
    takes_statements,
    two_replicas,
)
from tests.support.sse import STREAM, Chunk, chunks_of, resumed, streamed, text_of, types_of


def gate() -> tuple[str, Gate]:
    name = uuid4().hex
    return name, CommandedAgent.gates[name]


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[tuple[Client, Client]]:
    """A user at two replicas on one database."""
    async with two_replicas(database_url, uuid4().hex) as clients:
        yield clients


@asynccontextmanager
async def reading(
    client: Client, method: str, path: str, **options: object
) -> AsyncIterator[AsyncIterator[Chunk]]:
    async with client.stream(method, client.mine(path), **options) as response:  # type: ignore[arg-type]
        yield chunks_of(response)


async def until_text(chunks: AsyncIterator[Chunk], text: str) -> list[Chunk]:
    seen: list[Chunk] = []
    async for chunk in chunks:
        seen.append(chunk)
        if text_of(seen).endswith(text):
            return seen
    raise AssertionError(f"ended with {seen}")


class TestResume:
    async def test_at_another_replica_replays_the_turn_and_follows_it(
        self, replicas: tuple[Client, Client]
    ) -> None:
        assert Patience().watch + Patience().poll < 1  # "at most a second late" is what is promised
        here, there = replicas
        name, waits = gate()
        later, then = gate()
        message = f'think Hm.\ncall add_task {{"title": "milk"}}\nsay One\ngate {name}\nsay two\ngate {later}\nsay three.'
        turn = asyncio.create_task(streamed(here, message))
        await waits.reached.wait()
        (conversation,) = (await there.get(there.mine("/conversations"))).json()["items"]
        async with reading(there, "GET", f"/chat/{conversation['id']}/stream") as chunks:
            seen = await until_text(chunks, "One")
            waits.opened.set()
            seen += await until_text(chunks, "two")
            then.opened.set()
            seen += [chunk async for chunk in chunks]
        whole = await turn
        assert types_of(seen) == types_of(whole)
        assert (seen[0], seen[-1], text_of(seen)) == (whole[0], whole[-1], text_of(whole))

    async def test_at_another_replica_has_the_same_steps(self, replicas: tuple[Client, Client]) -> None:
        here, there = replicas
        name, waits = gate()
        step = "step\nmute list_tasks {}\nmute list_tasks {}\n"
        message = f"{step * 2}step\nsay One\nstep\nsay two\ngate {name}\nstep\nsay three."
        turn = asyncio.create_task(streamed(here, message))
        await waits.reached.wait()
        (conversation,) = (await there.get(there.mine("/conversations"))).json()["items"]
        async with reading(there, "GET", f"/chat/{conversation['id']}/stream") as chunks:
            seen = await until_text(chunks, "two")
        waits.opened.set()
        assert types_of(await turn)[: len(types_of(seen))] == types_of(seen)
        assert types_of(seen).count("start-step") == 4

    async def test_of_a_turn_that_nobody_streams_works_too(self, replicas: tuple[Client, Client]) -> None:
        here, there = replicas
        name, waits = gate()
        turn = asyncio.create_task(here.said(f"say Hel\ngate {name}\nsay lo."))
        await waits.reached.wait()
        (conversation,) = (await there.get(there.mine("/conversations"))).json()["items"]
        for client in (here, there):
            async with reading(client, "GET", f"/chat/{conversation['id']}/stream") as chunks:
                await until_text(chunks, "Hel")
        waits.opened.set()
        assert (await turn)["response"] == "Hello."

    async def test_is_204_when_nothing_is_active(self, alice: Client) -> None:
        answer = await alice.said("say Hi.")
        response = await alice.get(alice.mine(f"/chat/{answer['conversation_id']}/stream"))
        assert (response.status_code, response.content) == (204, b"")

    async def test_of_an_ended_turn_by_its_id_replays_it_whole(self, alice: Client) -> None:
        told = await streamed(alice, 'call add_task {"title": "milk"}\nsay Hi.')
        ids = told[0]["messageMetadata"]
        await alice.said("say later", ids["conversation_id"])
        again = await resumed(alice, **ids)
        assert (again[0], again[-1], text_of(again)) == (told[0], told[-1], text_of(told))
        outputs = [[c for c in chunks if c["type"] == "tool-output-available"] for chunks in (told, again)]
        assert outputs[0] == outputs[1]

    async def test_of_a_failed_turn_tells_why(self, alice: Client) -> None:
        told = await streamed(alice, "fail")
        again = await resumed(alice, **told[0]["messageMetadata"])
        assert again[-1] == told[-1]

    async def test_of_what_is_not_yours_is_404(self, alice: Client, bob: Client) -> None:
        ids = (await streamed(alice, "say Hi."))[0]["messageMetadata"]
        other = (await streamed(bob, "say Hi."))[0]["messageMetadata"]
        for conversation_id, turn_id in (
            (ids["conversation_id"], ids["turn_id"]),
            (ids["conversation_id"], None),
            (other["conversation_id"], ids["turn_id"]),
            (other["conversation_id"], 2**63 - 1),
            (other["conversation_id"], 2**70),
            (2**70, None),
        ):
            query = {} if turn_id is None else {"turn_id": turn_id}
            for path in (bob.mine(f"/chat/{conversation_id}/stream"), f"/api/chat/{conversation_id}/stream"):
                assert (await bob.get(path, params=query)).status_code == 404

    async def test_of_a_turn_deleted_with_its_conversation_ends_as_cancelled(
        self, replicas: tuple[Client, Client]
    ) -> None:
        here, there = replicas
        name, waits = gate()
        turn = asyncio.create_task(streamed(here, f"say Hel\ngate {name}"))
        await waits.reached.wait()
        (conversation,) = (await there.get(there.mine("/conversations"))).json()["items"]
        async with reading(there, "GET", f"/chat/{conversation['id']}/stream") as chunks:
            await until_text(chunks, "Hel")
            await there.delete(there.mine(f"/conversations/{conversation['id']}"))
            assert [chunk["type"] async for chunk in chunks][-1] == "abort"
        assert (await turn)[-1]["type"] == "abort"

    async def test_of_a_turn_whose_process_died_ends_as_interrupted_and_a_retry_is_followed(
        self, empty_database_url: str
    ) -> None:
        name, waits = gate()
        message = f'call add_task {{"title": "milk"}}\nonce gate {name}\nsay Done.'
        key = {"Idempotency-Key": "k"}
        async with two_replicas(empty_database_url) as (here, there):
            turn = asyncio.create_task(streamed(here, message, headers=key))
            await waits.reached.wait()
            async with reading(there, "GET", "/chat/1/stream") as chunks:
                await until_text(chunks, "done. ")
                await execute(empty_database_url, DIES)
                *_, last = [chunk async for chunk in chunks]
            assert last["problem"]["type"] == "urn:chatapi:problem:interrupted"
            again = await streamed(there, message, headers=key)
            assert (again[-1]["type"], text_of(again)) == ("finish", "add_task: done. Done.")
            assert (await turn)[-1]["type"] == "abort"  # the run that was taken for dead
            assert len((await there.get(there.mine("/tasks"))).json()["items"]) == 1
            assert text_of(await resumed(there, 1, 1)) == "add_task: done. Done."

    async def test_joins_a_turn_of_the_same_key_at_another_replica(
        self, replicas: tuple[Client, Client]
    ) -> None:
        here, there = replicas
        name, waits = gate()
        key = {"Idempotency-Key": uuid4().hex}
        message = f"say Hel\ngate {name}\nsay lo."
        turn = asyncio.create_task(streamed(here, message, headers=key))
        await waits.reached.wait()
        async with reading(
            there, "POST", "/chat", json={"message": message}, headers={**STREAM, **key}
        ) as chunks:
            seen = await until_text(chunks, "Hel")
            waits.opened.set()
            seen += [chunk async for chunk in chunks]
        assert text_of(seen) == text_of(await turn) == "Hello."
        assert len((await there.get(there.mine("/conversations"))).json()["items"]) == 1

    async def test_at_a_replica_that_is_stopping_is_told_to_resume_elsewhere(
        self, empty_database_url: str
    ) -> None:
        """Those who read already have been told."""
        name, waits = gate()
        settings = settings_for(empty_database_url)
        stopping = Services.of(settings, SLOW_MACHINE, CommandedAgent())
        async with (
            serve(settings) as one,
            serving(app_of(stopping)) as other,
            Client(one, "alice") as here,
            Client(other, "alice") as there,
        ):
            turn = asyncio.create_task(streamed(here, f"say Hel\ngate {name}\nsay lo."))
            await waits.reached.wait()
            await stopping.supervisor.drain(0)  # as at a SIGTERM, which a process hears and not a part of one
            told = asyncio.create_task(resumed(there, 1))
            done, _ = await asyncio.wait([told], timeout=60)
            waits.opened.set()
            assert done
            assert told.result()[-1]["problem"]["type"] == "urn:chatapi:problem:restarting"
            assert text_of(await turn) == "Hello."


class Odd:
    """An agent whose provider is not careful with Unicode."""

    model = "odd"

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        yield TextDelta("Hel\ud800")
        await tools.call("look\ud800up\0", {}, call_id="\udc00", own=self.go_on.wait)
        yield TextDelta("lo.")


async def test_what_utf_8_cannot_hold_is_the_same_in_streams_here_and_there_and_in_store(
    empty_database_url: str,
) -> None:
    agent = Odd()
    async with two_replicas(empty_database_url, agent=agent) as (here, there):
        turn = asyncio.create_task(streamed(here, "Hello"))
        while not (await there.get(there.mine("/conversations"))).json()["items"]:  # noqa: ASYNC110 - until it has begun
            await asyncio.sleep(0.01)
        async with reading(there, "GET", "/chat/1/stream") as chunks:
            seen = [await anext(chunks)]
            while seen[-1]["type"] != "tool-input-available":
                seen.append(await anext(chunks))
            agent.go_on.set()
            seen += [chunk async for chunk in chunks]
        told = await turn
        calls = [
            [(chunk["toolCallId"], chunk.get("toolName")) for chunk in each if "toolCallId" in chunk]
            for each in (told, seen)
        ]
        assert calls[0] == calls[1] == [("?", "look?up"), ("?", "look?up"), ("?", None)]
        _, answer = await there.messages(1)
        assert text_of(told) == text_of(seen) == answer["content"] == "Hel?lo."
        assert [(call["id"], call["name"]) for call in answer["tool_calls"]] == [("?", "look?up")]
        assert (await here.get("/metrics")).status_code == 200


@pytest.mark.slow
class TestCost:
    async def test_what_is_said_is_written_now_and_then_and_goes_with_the_turns_end(
        self, alice: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes: list[int] = []
        of_database = PostgresTurnStore if takes_statements(database_url) else TurnStore
        watch = of_database.watch

        async def counted(store: TurnStore, run_ids: Sequence[str], chunks: Sequence[Written]) -> Watched:
            writes.extend([len(chunks)] if chunks else [])
            return await watch(store, run_ids, chunks)

        monkeypatch.setattr(of_database, "watch", counted)
        name, waits = gate()
        began = time.monotonic()
        turn = asyncio.create_task(streamed(alice, f"words 5000\nsay end\ngate {name}"))
        await waits.reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        while not writes or await position_of(database_url, alice.user_id) < 0:  # noqa: ASYNC110 - its tick
            await asyncio.sleep(0.05)
        # Of 5,001 pieces, however long the machine takes to say them.
        assert len(writes) <= 2 + (time.monotonic() - began) / Patience().watch
        waits.opened.set()
        await turn
        assert await position_of(database_url, alice.user_id) == -1
        assert (
            len(
                text_of(
                    await resumed(alice, conversation["id"], turn.result()[0]["messageMetadata"]["turn_id"])
                )
            )
            > 5_000
        )

    async def test_nothing_is_asked_of_the_database_for_turns_that_nobody_follows(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        poll = live.LiveTurns._poll

        async def noticed(followed: live.LiveTurns, turns: list[Any]) -> None:
            asked.append(len(turns))
            await poll(followed, turns)

        news = TurnStore.news

        async def noticed_too(store: TurnStore, places: Sequence[Place]) -> Any:
            asked.append(len(places))
            return await news(store, places)

        monkeypatch.setattr(live.LiveTurns, "_poll", noticed)
        monkeypatch.setattr(TurnStore, "news", noticed_too)
        name, waits = gate()
        often = Patience(poll=0.02)
        async with two_replicas(database_url, uuid4().hex, patience=often) as (here, there):
            turn = asyncio.create_task(here.said(f"say Hel\ngate {name}"))
            await waits.reached.wait()
            (conversation,) = (await there.get(there.mine("/conversations"))).json()["items"]
            async with reading(there, "GET", f"/chat/{conversation['id']}/stream") as chunks:
                await until_text(chunks, "Hel")
            assert any(asked)
            # Sooner or later, several times in each process that there is: those of the test, and one that all tests
            # share.
            while len(asked) < 20 or any(asked[-20:]):  # noqa: ASYNC110 - its tick
                await asyncio.sleep(0.05)
            waits.opened.set()
            await turn

    async def test_who_comes_to_read_what_was_given_up_is_sent_on(
        self, alice: Client, database_url: str
    ) -> None:
        """Between the log that is made and the first look into it, a process may have been held up."""
        name, waits = gate()
        turn = asyncio.create_task(alice.said(f"gate {name}\nsay Hi."))
        await waits.reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        database = open_database(settings_for(database_url))
        store = turn_store(database)
        found = await store.find(alice.user_id, conversation["id"], None)
        assert isinstance(found, Turn)
        elsewhere = live.LiveTurns(store, Patience(poll=0.01))
        log = await elsewhere.follow(found)
        polling = asyncio.create_task(elsewhere.run(lambda *_: None))
        while elsewhere.logs:  # noqa: ASYNC110 - its tick
            await asyncio.sleep(0.01)
        assert [batch async for batch in log.read(60)] == []
        assert isinstance(log.ended, StreamNotRead)
        polling.cancel()
        await database.close()
        waits.opened.set()
        await turn


async def position_of(database_url: str, user_id: str) -> int:
    """The last chunk's of the user's turns; -1 if there is none."""
    database = open_database(settings_for(database_url))
    async with database.transaction(EVERYONE) as session:
        last = await session.scalar(select(func.max(TurnChunk.position)).where(TurnChunk.user_id == user_id))
    await database.close()
    return -1 if last is None else last


@pytest.mark.slow
class TestShutdown:
    async def test_tells_open_streams_to_resume_and_ends_their_turns(self, directory: Path) -> None:
        environ = {
            "CHAT_MODEL": "tests.support.gated:GatedAgent",
            "BETTER_AUTH_SECRET": SECRET,
            "DATABASE_URL": f"sqlite+aiosqlite:///{directory / 'chatapi.db'}",
        }
        async with (
            Process(directory, environ, program=GATED) as process,
            Process(directory, environ, program=GATED) as other,
            Client(await process.ready(), "alice") as alice,
            Client(await other.ready(), "alice") as elsewhere,
            reading(
                alice, "POST", "/chat", json={"message": "say Hel\ngate end\nsay lo."}, headers=STREAM
            ) as chunks,
        ):
            ids = (await anext(chunks))["messageMetadata"]
            process.terminate()
            *_, last = [chunk async for chunk in chunks]
            assert last["problem"]["type"] == "urn:chatapi:problem:restarting"
            assert {name: last["problem"][name] for name in ids} == ids
            async with reading(
                elsewhere, "GET", f"/chat/{ids['conversation_id']}/stream", params={"turn_id": ids["turn_id"]}
            ) as rest:
                seen = await until_text(rest, "Hel")
                (directory / "end.open").touch()
                seen += [chunk async for chunk in rest]
            assert text_of(seen) == "Hello."
            assert await process.wait() == 0
