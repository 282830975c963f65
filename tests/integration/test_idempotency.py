"""Idempotency-Key: a turn that is sent again is not run again."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.agents import CommandedAgent, Gate
from tests.support.postgres import WAITING, Postgres, until
from tests.support.serving import DIES, Client, execute, serve, settings_for, two_replicas


def key(value: str | None = None) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": value or uuid4().hex}}


class TestReplay:
    async def test_is_the_first_answer_byte_for_byte(self, alice: Client) -> None:
        message = 'call add_task {"title": "ü", "description": "1.0"}\ncall list_tasks {}\nsay Done.'
        sent = key()
        first = await alice.chat(message, **sent)
        assert first.status_code == 200
        assert "Idempotent-Replayed" not in first.headers
        for _ in range(3):
            again = await alice.chat(message, **sent)
            assert (again.status_code, again.content) == (200, first.content)
            assert again.headers["Idempotent-Replayed"] == "true"
        assert len(await alice.messages(first.json()["conversation_id"])) == 2
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1

    async def test_is_the_same_on_both_routes_and_however_the_body_is_written(self, alice: Client) -> None:
        sent = key()
        first = await alice.chat("say Hello.", **sent)
        again = await alice.post(
            "/api/chat", content=b'{ "conversation_id": null, "message": "say Hello." }', **sent
        )
        assert again.content == first.content

    async def test_is_for_one_user_alone(self, alice: Client, bob: Client) -> None:
        sent = key()
        first = await alice.said_with(sent, "say Hello.")
        other = await bob.said_with(sent, "say Hello.")
        assert first["conversation_id"] != other["conversation_id"]

    async def test_of_a_continued_conversation_does_not_grow_it(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        sent = key()
        first = await alice.chat("say 1", conversation_id, **sent)
        await alice.said("say 2", conversation_id)
        again = await alice.chat("say 1", conversation_id, **sent)
        assert again.content == first.content
        assert len(await alice.messages(conversation_id)) == 6


class TestKey:
    async def test_with_another_request_is_422(self, alice: Client) -> None:
        sent = key()
        conversation_id = (await alice.said_with(sent, "say Hello."))["conversation_id"]
        for message, conversation in (("say Bye.", None), ("say Hello.", conversation_id)):
            response = await alice.chat(message, conversation, **sent)
            assert (response.status_code, response.json()["type"]) == (
                422,
                "urn:chatapi:problem:idempotency-key-reused",
            )

    @pytest.mark.parametrize("value", ["", "a b", "x" * 256, "ü", "a\tb"])
    async def test_that_is_not_one_is_422(self, alice: Client, value: str) -> None:
        headers = [(b"Idempotency-Key", value.encode())]
        response = await alice.post("/api/chat", json={"message": "say Hello."}, headers=headers)
        assert response.status_code == 422
        assert response.json()["errors"][0]["path"] == "Idempotency-Key"

    @pytest.mark.parametrize("value", ["x", "~" * 255, '"quoted"', "!#$%&'()*+"])
    async def test_may_be_any_visible_ascii(self, alice: Client, value: str) -> None:
        assert (await alice.chat("say Hello.", **key(value))).status_code == 200

    async def test_past_its_retention_is_a_new_one(self, empty_database_url: str) -> None:
        async with serve(settings_for(empty_database_url)) as url, Client(url, "alice") as alice:
            sent = key()
            first = await alice.said_with(sent, "say Hello.")
            await execute(empty_database_url, "UPDATE turns SET created_at = '2020-01-01 00:00:00+00:00'")
            second = await alice.said_with(sent, "say Hello.")
            assert second["turn_id"] != first["turn_id"]
            assert (await alice.said_with(sent, "say Hello."))["turn_id"] == second["turn_id"]

    async def test_while_its_turn_runs_is_409_and_then_its_answer(self, alice: Client) -> None:
        sent = key()
        gate = CommandedAgent.gates[alice.user_id]
        message = f"gate {alice.user_id}\nsay Done."
        running = asyncio.create_task(alice.chat(message, **sent))
        await gate.reached.wait()
        response = await alice.chat(message, **sent)
        gate.opened.set()
        assert (response.status_code, response.json()["type"]) == (409, "urn:chatapi:problem:key-in-progress")
        assert int(response.headers["Retry-After"]) >= 1
        first = await running
        assert response.json()["turn_id"] == first.json()["turn_id"]
        assert (await alice.chat(message, **sent)).content == first.content

    @pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
    async def test_with_another_request_at_the_same_moment_is_422_too(
        self, postgres: Postgres, accept: str
    ) -> None:
        """The other's turn is seen only by its key's being taken; it must not be streamed to this one."""
        url = postgres.url(await asyncio.to_thread(postgres.new_database), role="postgres")
        async with serve(settings_for(url)) as base_url, Client(base_url, "alice") as alice:
            first, second = [await alice.said(f"say {number}") for number in range(2)]
            other = await asyncpg.connect(url)
            try:
                async with other.transaction():
                    await other.execute(
                        "INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, "
                        "model, created_at, idempotency_key, request_hash) "
                        "SELECT 'alice', $1, 'running', id, 'other', false, 'm', now(), 'k', 'other' FROM workers "
                        "WHERE id <> 'waiting'",
                        first["conversation_id"],
                    )
                    asking = asyncio.create_task(
                        alice.post(
                            alice.mine(f"/turns/{second['turn_id']}/regenerate"),
                            headers={"Idempotency-Key": "k", "Accept": accept},
                        )
                    )
                    await until(WAITING, other, asking)
                response = await asking
            finally:
                await other.close()
            assert (response.status_code, response.json()["type"]) == (
                422,
                "urn:chatapi:problem:idempotency-key-reused",
            )

    async def test_sent_many_times_at_once_runs_one_turn(self, alice: Client) -> None:
        sent = key()
        message = 'call add_task {"title": "milk"}\nsleep 0.1'
        responses = await asyncio.gather(*(alice.chat(message, **sent) for _ in range(12)))
        assert {response.status_code for response in responses} <= {200, 409}
        assert sum(response.status_code == 200 for response in responses) >= 1
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1
        assert len((await alice.get(alice.mine("/conversations"))).json()["items"]) == 1


class TestFailedTurn:
    async def test_runs_again_as_the_same_turn(self, alice: Client) -> None:
        """The message says to fail, and does so each time; what counts is that nothing is stored twice."""
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        sent = key()
        message = 'call add_task {"title": "milk"}\nfail'
        first = (await alice.chat(message, conversation_id, **sent)).json()
        again = (await alice.chat(message, conversation_id, **sent)).json()
        assert (first["status"], again["status"]) == (502, 502)
        assert again["turn_id"] == first["turn_id"]
        assert len(await alice.messages(conversation_id)) == 4
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1

    async def test_that_succeeds_the_second_time_answers_and_tells_all_it_did(self, alice: Client) -> None:
        sent = key()
        message = 'call add_task {"title": "milk"}\nonce fail\ncall add_task {"title": "milk"}\nsay Done.'
        assert (await alice.chat(message, **sent)).status_code == 502
        answer = await alice.said_with(sent, message)
        assert [call["result"]["title"] for call in answer["tool_calls"]] == ["milk", "milk"]
        assert len({call["result"]["id"] for call in answer["tool_calls"]}) == 2
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 2
        assert len(await alice.messages(answer["conversation_id"])) == 2

    async def test_that_answers_differently_keeps_what_the_first_run_did(self, alice: Client) -> None:
        sent = key()
        message = 'once call add_task {"title": "milk"}\nonce fail\ncall add_task {"title": "bread"}'
        assert (await alice.chat(message, **sent)).status_code == 502
        answer = await alice.said_with(sent, message)
        assert [call["arguments"]["title"] for call in answer["tool_calls"]] == ["milk", "bread"]

    async def test_makes_a_call_again_that_had_ended_in_an_error(self, alice: Client) -> None:
        sent = key()
        message = 'call complete_task {"task_id": 9223372036854775807}\nonce fail\nsay Done.'
        assert (await alice.chat(message, **sent)).status_code == 502
        answer = await alice.said_with(sent, message)
        assert ["error" in call for call in answer["tool_calls"]] == [True, True]

    async def test_has_its_answer_in_the_place_of_what_the_failed_run_had_said(self, alice: Client) -> None:
        sent, name = key(), uuid4().hex
        message = f"once say Half {name}\nonce fail {name}\ngate {name}\nsay Whole."
        failed = (await alice.chat(message, **sent)).json()
        question, half = await alice.messages(failed["conversation_id"])
        assert (half["status"], half["content"]) == ("failed", f"Half {name}")
        again = asyncio.create_task(alice.said_with(sent, message))
        await CommandedAgent.gates[name].reached.wait()
        assert [each["id"] for each in await alice.messages(failed["conversation_id"])] == [question["id"]]
        CommandedAgent.gates[name].opened.set()
        answer = await again
        assert [
            (each["id"], each["status"], each["content"])
            for each in await alice.messages(failed["conversation_id"])
        ] == [
            (question["id"], "completed", message),
            (answer["message_id"], "completed", "Whole."),
        ]
        assert answer["message_id"] > half["id"]
        assert (await alice.said_with(sent, message)) == answer

    async def test_that_fails_again_keeps_what_the_last_run_had_said(self, alice: Client) -> None:
        sent, name = key(), uuid4().hex
        message = f"once say First {name}\nsay Always\nfail"
        for said in (f"First {name}Always", "Always"):
            failed = (await alice.chat(message, **sent)).json()
            _, half = await alice.messages(failed["conversation_id"])
            assert (half["status"], half["content"]) == ("failed", said)

    async def test_that_a_replica_of_the_version_before_has_run_again_has_one_answer(
        self, empty_database_url: str
    ) -> None:
        """It knows nothing of what the failed run had said, and leaves it beside its answer."""
        sent = key()
        async with serve(settings_for(empty_database_url)) as url, Client(url, "alice") as alice:
            await alice.chat("say Half\nfail", **sent)
            await execute(empty_database_url, "UPDATE turns SET status = 'completed', error = NULL")
            await execute(
                empty_database_url,
                "INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at) "
                "VALUES ('alice', 1, 1, 'assistant', 'Whole.', '[]', '2026-01-01 00:00:00+00:00')",
            )
            assert (await alice.said_with(sent, "say Half\nfail"))["response"] == "Whole."
            told = (await alice.said("history", 1))["response"]
            assert json.loads(told) == [["user", "say Half\nfail"], ["assistant", "Whole."]]

    async def test_that_the_conversation_has_left_behind_is_409(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        sent = key()
        failed = (await alice.chat("fail", conversation_id, **sent)).json()
        await alice.said("say 1", conversation_id)
        response = await alice.chat("fail", conversation_id, **sent)
        assert (response.status_code, response.json()["type"]) == (409, "urn:chatapi:problem:turn-superseded")
        assert response.json()["turn_id"] == failed["turn_id"]


class TestAbandonedTurn:
    """A turn whose process died: its lease is the database's to judge."""

    async def test_is_taken_over_by_a_retry_with_its_key(self, empty_database_url: str) -> None:
        gate, sent = Gate(), key()
        CommandedAgent.gates[name := uuid4().hex] = gate
        message = f'call add_task {{"title": "milk"}}\nonce gate {name}\nsay Done.'
        async with two_replicas(empty_database_url) as (a, b):
            left_behind = asyncio.create_task(a.chat(message, **sent))
            await gate.reached.wait()
            await execute(empty_database_url, DIES)
            answer = await b.said_with(sent, message)
            assert answer["response"] == "add_task: done. Done."
            gate.opened.set()
            late = await left_behind
            assert (late.status_code, late.json()["type"]) == (409, "urn:chatapi:problem:turn-cancelled")
            assert len((await b.get(b.mine("/tasks"))).json()["items"]) == 1
            stored = await b.messages(answer["conversation_id"])
            assert [message["status"] for message in stored] == ["completed"] * 2

    async def test_is_failed_by_the_next_message_and_can_write_nothing_more(
        self, empty_database_url: str
    ) -> None:
        """Its process may only have been slow, and comes back to a turn that is no longer its own."""
        gate = Gate()
        CommandedAgent.gates[name := uuid4().hex] = gate
        async with two_replicas(empty_database_url) as (a, b):
            conversation_id = (await a.said("say 0"))["conversation_id"]
            left_behind = asyncio.create_task(
                a.chat(f'gate {name}\ncall add_task {{"title": "milk"}}', conversation_id)
            )
            await gate.reached.wait()
            await execute(empty_database_url, DIES)
            assert (await b.said("history", conversation_id))[
                "response"
            ] == '[["user", "say 0"], ["assistant", "0"]]'
            gate.opened.set()
            late = await left_behind
            assert late.json()["type"] == "urn:chatapi:problem:turn-cancelled"
            assert (await b.get(b.mine("/tasks"))).json()["items"] == []
            stored = await b.messages(conversation_id)
            assert [message["status"] for message in stored] == [
                "completed",
                "completed",
                "failed",
                "completed",
                "completed",
            ]
