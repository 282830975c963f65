"""Cancelling a turn, and what a shutdown does to one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from chatapi.app import app_of
from chatapi.db.models import WAITING, Worker
from chatapi.patience import Patience
from chatapi.services import Services
from chatapi.turns.store import TurnStore
from chatapi.turns.store.postgres import PostgresTurnStore
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.logs import heard
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
    two_replicas,
)
from tests.support.sse import resumed, streamed, text_of


class TestCancel:
    async def test_ends_the_turn_and_keeps_what_was_said_and_done(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        turn = asyncio.create_task(
            alice.chat(
                f'say Once upon a time\ncall add_task {{"title": "milk"}}\ngate {alice.user_id}\nsay The end.',
                conversation_id,
            )
        )
        await CommandedAgent.gates[alice.user_id].reached.wait()
        *_, running = await alice.messages(conversation_id)
        response = await alice.post(alice.mine(f"/turns/{running['turn_id']}/cancel"))
        assert (response.status_code, response.content) == (202, b"")
        told = await turn
        assert (told.status_code, told.json()["type"]) == (409, "urn:chatapi:problem:turn-cancelled")
        assert told.json()["turn_id"] == running["turn_id"]
        *_, question, answer = await alice.messages(conversation_id)
        assert question["status"] == answer["status"] == "cancelled"
        assert answer["content"].startswith("Once upon a time")
        assert [call["name"] for call in answer["tool_calls"]] == ["add_task"]
        assert "Once upon a time" in (await alice.said("history", conversation_id))["response"]

    async def test_of_a_turn_that_had_said_nothing_leaves_no_answer_in_history(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}", conversation_id))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        *_, running = await alice.messages(conversation_id)
        await alice.post(alice.mine(f"/turns/{running['turn_id']}/cancel"))
        assert (await turn).status_code == 409
        assert len(await alice.messages(conversation_id)) == 3
        assert (await alice.said("history", conversation_id))[
            "response"
        ] == '[["user", "say 0"], ["assistant", "0"]]'

    async def test_from_another_process_takes_effect_too(self, empty_database_url: str) -> None:
        assert Patience().watch <= 0.5  # "within a second" is what is promised
        async with two_replicas(empty_database_url) as (a, b):
            turn = asyncio.create_task(a.chat(f"say Hm.\ngate {empty_database_url}"))
            await CommandedAgent.gates[empty_database_url].reached.wait()
            (conversation,) = (await b.get(b.mine("/conversations"))).json()["items"]
            (running,) = await b.messages(conversation["id"])
            assert (await b.post(b.mine(f"/turns/{running['turn_id']}/cancel"))).status_code == 202
            assert (await asyncio.wait_for(turn, 60)).status_code == 409

    async def test_of_a_turn_that_has_ended_is_409(self, alice: Client) -> None:
        answer = await alice.said("say Hello.")
        response = await alice.post(alice.mine(f"/turns/{answer['turn_id']}/cancel"))
        assert (response.status_code, response.json()["type"]) == (409, "urn:chatapi:problem:turn-ended")
        ids = {name: response.json()[name] for name in ("turn_id", "conversation_id")}
        assert ids == {name: answer[name] for name in ids}

    async def test_of_a_turn_that_is_not_there_is_404(self, alice: Client, bob: Client) -> None:
        answer = await alice.said("say Hello.")
        for turn_id in (answer["turn_id"], 2**62, 2**63):
            response = await bob.post(bob.mine(f"/turns/{turn_id}/cancel"))
            assert response.status_code == 404

    async def test_is_replayed_to_a_retry_with_the_key(self, alice: Client) -> None:
        headers = {"Idempotency-Key": "cancelled-" + alice.user_id}
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}", headers=headers))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        (running,) = await alice.messages(conversation["id"])
        await alice.post(alice.mine(f"/turns/{running['turn_id']}/cancel"))
        assert (await turn).status_code == 409
        again = await alice.chat(f"gate {alice.user_id}", headers=headers)
        assert (again.status_code, again.json()["type"]) == (409, "urn:chatapi:problem:turn-cancelled")

    async def test_of_a_turn_whose_process_died_takes_effect_at_once(self, empty_database_url: str) -> None:
        async with serve(settings_for(empty_database_url)) as url, Client(url, "alice") as alice:
            conversation_id = (await alice.said("say 0"))["conversation_id"]
            await execute(
                empty_database_url,
                "INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, "
                "created_at) VALUES ('alice', :conversation, 'running', 'dead', 'dead', false, 'x', "
                "'2026-01-01 00:00:00+00:00')",
                conversation=conversation_id,
            )
            turn_id = (await alice.messages(conversation_id))[0]["turn_id"] + 1
            assert (await alice.post(alice.mine(f"/turns/{turn_id}/cancel"))).status_code == 202
            assert (await alice.post(alice.mine(f"/turns/{turn_id}/cancel"))).status_code == 409
            await alice.said("say 1", conversation_id)

    async def test_of_a_turn_whose_process_died_keeps_what_it_had_said_and_done(
        self, empty_database_url: str
    ) -> None:
        async with two_replicas(empty_database_url) as (here, there):
            message = f'say Once upon a time\ncall add_task {{"title": "milk"}}\ngate {empty_database_url}'
            left_behind = asyncio.create_task(here.chat(message))
            await CommandedAgent.gates[empty_database_url].reached.wait()
            async with there.stream("GET", there.mine("/chat/1/stream")) as response:
                async for line in response.aiter_lines():  # what is read there was written down
                    if "add_task: done" in line:
                        break
            await execute(empty_database_url, DIES)
            assert (await there.post(there.mine("/turns/1/cancel"))).status_code == 202
            question, answer = await there.messages(1)
            assert question["status"] == answer["status"] == "cancelled"
            assert answer["content"] == "Once upon a timeadd_task: done. "
            assert [call["result"]["title"] for call in answer["tool_calls"]] == ["milk"]
            assert "Once upon a time" in (await there.said("history", 1))["response"]
            assert (await left_behind).json()["type"] == "urn:chatapi:problem:turn-cancelled"

    async def test_while_a_call_is_committed_keeps_the_call(
        self, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The call took effect, but the turn does not know it yet."""
        committed = asyncio.Event()
        services = Services.of(settings_for(empty_database_url), SLOW_MACHINE, CommandedAgent())
        commit = services.store.call

        async def unheard(*arguments: Any, **options: Any) -> None:
            """The answer to the COMMIT is on its way."""
            await commit(*arguments, **options)
            committed.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(services.store, "call", unheard)
        async with serving(app_of(services)) as url, Client(url, "alice") as alice:
            turn = asyncio.create_task(alice.chat('say Once\ncall add_task {"title": "milk"}'))
            await committed.wait()
            (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
            (running,) = await alice.messages(conversation["id"])
            await alice.post(alice.mine(f"/turns/{running['turn_id']}/cancel"))
            assert (await turn).status_code == 409
            (task,) = (await alice.get(alice.mine("/tasks"))).json()["items"]
            _, answer = await alice.messages(conversation["id"])
            assert [call["result"]["id"] for call in answer["tool_calls"]] == [task["id"]]


class TestFailure:
    async def test_keeps_what_was_said_and_done_and_shows_it_to_no_model(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        response = await alice.chat(
            'say Once upon a time\ncall add_task {"title": "milk"}\nfail', conversation_id
        )
        assert (response.status_code, response.json()["type"]) == (502, "urn:chatapi:problem:model-failed")
        *_, question, half = await alice.messages(conversation_id)
        assert (question["status"], half["status"]) == ("failed", "failed")
        assert half["turn_id"] == question["turn_id"] == response.json()["turn_id"]
        assert (half["role"], half["content"]) == ("assistant", "Once upon a timeadd_task: done. ")
        assert [call["result"]["title"] for call in half["tool_calls"]] == ["milk"]
        told = (await alice.said("history", conversation_id))["response"]
        assert told == '[["user", "say 0"], ["assistant", "0"]]'
        exported = (await alice.get(alice.mine("/export"))).text.splitlines()
        records = [json.loads(line) for line in exported]
        assert [
            (each["content"], each["status"])
            for each in records
            if each.get("id") == half["id"] and "role" in each
        ] == [(half["content"], "failed")]

    async def test_by_a_call_alone_keeps_the_call(self, alice: Client) -> None:
        failed = (await alice.chat('mute add_task {"title": "milk"}\nfail')).json()
        _, half = await alice.messages(failed["conversation_id"])
        assert (half["content"], [call["name"] for call in half["tool_calls"]]) == ("", ["add_task"])

    @pytest.mark.parametrize("message", ["fail", "silence"])
    async def test_without_a_word_leaves_the_question_alone(self, alice: Client, message: str) -> None:
        failed = (await alice.chat(message)).json()
        assert failed["status"] == 502
        (question,) = await alice.messages(failed["conversation_id"])
        assert question["status"] == "failed"

    async def test_by_a_defect_of_the_agent_keeps_what_was_said(self, alice: Client) -> None:
        failed = (await alice.chat("say Half\ncrash")).json()
        _, half = await alice.messages(failed["conversation_id"])
        assert (half["status"], half["content"]) == ("failed", "Half")

    async def test_by_time_keeps_what_was_said(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, chat_timeout=0.1)
        async with serve(settings) as url, Client(url, "alice") as alice:
            late = await alice.chat(f"say Half\ngate {empty_database_url}")
            assert (late.status_code, late.json()["type"]) == (504, "urn:chatapi:problem:model-too-slow")
            _, half = await alice.messages(1)
            assert (half["status"], half["content"]) == ("failed", "Half")

    async def test_of_the_process_keeps_what_was_written_down(self, empty_database_url: str) -> None:
        async with two_replicas(empty_database_url) as (here, there):
            message = f'say Once upon a time\ncall add_task {{"title": "milk"}}\ngate {empty_database_url}'
            left_behind = asyncio.create_task(here.chat(message))
            await CommandedAgent.gates[empty_database_url].reached.wait()
            async with there.stream("GET", there.mine("/chat/1/stream")) as response:
                async for line in response.aiter_lines():  # what is read there was written down
                    if "add_task: done" in line:
                        break
            await execute(empty_database_url, DIES)
            assert (await there.said("history", 1))["response"] == "[]"
            question, half, *_ = await there.messages(1)
            assert question["status"] == half["status"] == "failed"
            assert half["content"] == "Once upon a timeadd_task: done. "
            assert [call["result"]["title"] for call in half["tool_calls"]] == ["milk"]
            CommandedAgent.gates[empty_database_url].opened.set()
            assert (await left_behind).json()["type"] == "urn:chatapi:problem:turn-cancelled"
            assert len(await there.messages(1)) == 4

    async def test_is_streamed_again_with_what_was_said(self, alice: Client) -> None:
        told = await streamed(alice, 'say Half\ncall add_task {"title": "milk"}\nfail')
        again = await resumed(alice, **told[0]["messageMetadata"])
        assert (again[0], again[-1], text_of(again)) == (told[0], told[-1], text_of(told))
        assert again[-1]["type"] == "error"
        outputs = [[c for c in chunks if c["type"] == "tool-output-available"] for chunks in (told, again)]
        assert outputs[0] == outputs[1] != []


class TestFinish:
    async def test_by_the_models_limit_is_an_answer_that_says_so_each_time(self, alice: Client) -> None:
        headers = {"Idempotency-Key": "cut-" + alice.user_id}
        message = "say Once upon a\nfinish length"
        cut = await alice.chat(message, headers=headers)
        answer = cut.json()
        assert (cut.status_code, answer["response"]) == (200, "Once upon a")
        assert answer["finish_reason"] == "length"
        assert (await alice.chat(message, headers=headers)).content == cut.content
        ids = {name: answer[name] for name in ("conversation_id", "turn_id")}
        for chunks in (await streamed(alice, message, headers=headers), await resumed(alice, **ids)):
            assert (chunks[-1]["type"], chunks[-1]["finishReason"]) == ("finish", "length")
            assert text_of(chunks) == "Once upon a"
        assert [each["status"] for each in await alice.messages(ids["conversation_id"])] == ["completed"] * 2
        told = (await alice.said("history", ids["conversation_id"]))["response"]
        assert "Once upon a" in json.loads(told)[1]

    @pytest.mark.parametrize("message", ["say Done.", "say Done.\nfinish stop"])
    async def test_by_itself_is_the_rule(self, alice: Client, message: str) -> None:
        told = await streamed(alice, message)
        again = await resumed(alice, **told[0]["messageMetadata"])
        assert told[-1]["finishReason"] == again[-1]["finishReason"] == "stop"
        assert "finish_reason" not in await alice.said(message)


class TestDefect:
    """An unforeseen failure: here, an exception that does not come from the database."""

    async def test_does_not_end_the_watch_for_cancels(
        self, alice: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}"))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        with monkeypatch.context() as broken, heard("chatapi.turns.loops") as logged:
            for store in (TurnStore, PostgresTurnStore):
                broken.setattr(store, "watch", defect)
            while not logged:  # noqa: ASYNC110 - the loop's own tick
                await asyncio.sleep(0.01)
        # Not a cancel, which would look at once by itself: only the watch sees a deletion.
        await alice.delete(alice.mine(f"/conversations/{conversation['id']}"))
        told = await asyncio.wait_for(turn, 60)
        assert told.json()["type"] == "urn:chatapi:problem:turn-cancelled"

    async def test_at_a_turns_end_does_not_leave_it_running(
        self, alice: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        with monkeypatch.context() as broken:
            for method in ("finish", "fail"):
                broken.setattr(TurnStore, method, defect)
            assert (await alice.chat("say 1", conversation_id)).status_code == 500
        for _ in range(50):  # each counts against the limit of sixty a minute
            response = await alice.chat("say 2", conversation_id)
            if response.status_code == 200:
                break
            await asyncio.sleep(0.5)
        assert response.status_code == 200
        statuses = [message["status"] for message in await alice.messages(conversation_id)]
        assert statuses == ["completed", "completed", "failed", "completed", "completed"]

    async def test_at_the_shutdown_does_not_keep_the_lease(self, empty_database_url: str) -> None:
        class Unclosable(CommandedAgent):
            async def __aenter__(self) -> None:
                pass

            async def __aexit__(self, *_: object) -> None:
                raise RuntimeError("a defect")

        settings = settings_for(empty_database_url)
        async with serve(settings, Unclosable()) as url, Client(url, "alice") as alice:
            await alice.said("say Hello.")
        database = open_database(settings)
        async with database.transaction(None) as session:
            assert await session.scalar(select(func.count()).where(Worker.id != WAITING)) == 0
        await database.close()


async def defect(*_: object, **__: object) -> None:
    raise RuntimeError("a defect")


async def begun(alice: Client) -> None:
    """Wait until Alice's first turn has begun."""
    while not (await alice.get(alice.mine("/conversations"))).json()["items"]:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.05)


@pytest.mark.slow
class TestShutdown:
    async def test_lets_a_short_turn_finish(self, directory: Path) -> None:
        environ = {"CHAT_MODEL": "tests.support.gated:GatedAgent", "BETTER_AUTH_SECRET": SECRET}
        async with (
            Process(directory, environ, program=GATED) as process,
            Client(await process.ready(), "alice") as alice,
        ):
            turn = asyncio.create_task(alice.chat("gate end\nsay Done."))
            await begun(alice)
            process.terminate()
            await asyncio.sleep(0.5)  # so that it ends after that is heard
            (directory / "end.open").touch()
            response = await turn
            assert (response.status_code, response.json()["response"]) == (200, "Done.")
            assert await process.wait() == 0

    async def test_ends_a_long_turn_as_failed_and_a_retry_runs_it(self, directory: Path) -> None:
        environ = {
            "CHAT_MODEL": "tests.support.agents:CommandedAgent",
            "BETTER_AUTH_SECRET": SECRET,
        }
        headers = {"Idempotency-Key": "k"}
        message = 'call add_task {"title": "milk"}\nonce gate never\nsay Done.'
        async with Process(directory, environ) as process, Client(await process.ready(), "alice") as alice:
            turn = asyncio.create_task(alice.chat(message, headers=headers))
            await begun(alice)
            process.terminate()
            response = await turn
            assert (response.status_code, response.json()["type"]) == (503, "urn:chatapi:problem:interrupted")
            assert int(response.headers["Retry-After"]) >= 1
            assert await process.wait() == 0
        async with Process(directory, environ) as process, Client(await process.ready(), "alice") as alice:
            question, half = await alice.messages(response.json()["conversation_id"])
            assert question["status"] == half["status"] == "failed"
            assert half["content"] == "add_task: done. "
