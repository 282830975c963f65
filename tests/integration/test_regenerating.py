"""The last turn answered anew, to the same message or to an edited one."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.agents import CommandedAgent
from tests.support.serving import Client
from tests.support.sse import STREAM, chunks_of, resumed, text_of


async def regenerate(
    client: Client, turn_id: int, message: str | None = None, **headers: str
) -> httpx.Response:
    body = None if message is None else {"message": message}
    return await client.post(client.mine(f"/turns/{turn_id}/regenerate"), json=body, headers=headers)


async def answered_anew(
    client: Client, turn_id: int, message: str | None = None, **headers: str
) -> dict[str, Any]:
    response = await regenerate(client, turn_id, message, **headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


class TestRegenerate:
    async def test_answers_the_last_turn_anew_and_keeps_the_old_answer(self, alice: Client) -> None:
        first = await alice.said("say 0")
        conversation_id = first["conversation_id"]
        old = await alice.said(f"once say old {alice.user_id}\nhistory", conversation_id)
        new = await answered_anew(alice, old["turn_id"])
        assert new["turn_id"] != old["turn_id"]
        assert new["response"] == '[["user", "say 0"], ["assistant", "0"]]'
        shown = await alice.messages(conversation_id)
        assert contents(shown)[1::2] == ["0", new["response"]]
        assert [message["turn_id"] for message in shown][2:] == [new["turn_id"]] * 2
        assert shown[-1]["alternative_of"] == old["turn_id"]
        assert "alternative_of" not in shown[0]
        everything = await alice.messages(conversation_id, alternatives=True)
        assert contents(everything)[1::2] == ["0", old["response"], new["response"]]
        assert contents(everything)[2] == contents(everything)[4]

    async def test_only_the_last_answer_is_history(self, alice: Client) -> None:
        old = await alice.said(f"once say old {alice.user_id}\nsay new")
        new = await answered_anew(alice, old["turn_id"])
        newer = await answered_anew(alice, new["turn_id"])
        assert newer["response"] == "new"
        told = await alice.said("history", old["conversation_id"])
        assert told["response"].count('"assistant"') == 1
        assert '["assistant", "new"]' in told["response"]
        everything = await alice.messages(old["conversation_id"], alternatives=True)
        assert [message.get("alternative_of") for message in everything[:6:2]] == [
            None,
            old["turn_id"],
            old["turn_id"],
        ]

    async def test_with_an_edited_message_answers_that(self, alice: Client) -> None:
        old = await alice.said("say old")
        new = await answered_anew(alice, old["turn_id"], "say edited")
        assert new["response"] == "edited"
        assert contents(await alice.messages(old["conversation_id"])) == ["say edited", "edited"]
        again = await answered_anew(alice, new["turn_id"])
        assert again["response"] == "edited"

    async def test_streams(self, alice: Client) -> None:
        old = await alice.said('call add_task {"title": "milk"}')
        async with alice.stream(
            "POST",
            alice.mine(f"/turns/{old['turn_id']}/regenerate"),
            json={"message": "say Hi."},
            headers=STREAM,
        ) as response:
            chunks = [chunk async for chunk in chunks_of(response)]
        assert text_of(chunks) == "Hi."
        ids = chunks[0]["messageMetadata"]
        assert ids["conversation_id"] == old["conversation_id"]
        assert text_of(await resumed(alice, **ids)) == "Hi."

    async def test_that_fails_leaves_the_old_answer_in_place(self, alice: Client) -> None:
        old = await alice.said("say old")
        failed = await regenerate(alice, old["turn_id"], "fail")
        assert failed.status_code == 502
        assert (await regenerate(alice, old["turn_id"], "fail")).status_code == 502
        assert contents(await alice.messages(old["conversation_id"])) == ["say old", "old"]
        everything = await alice.messages(old["conversation_id"], alternatives=True)
        assert contents(everything) == ["say old", "old", "fail", "fail"]
        assert [message["status"] for message in everything] == ["completed"] * 2 + ["failed"] * 2
        new = await answered_anew(alice, failed.json()["turn_id"], "history")
        assert new["response"] == "[]"
        assert contents(await alice.messages(old["conversation_id"])) == ["history", "[]"]

    async def test_that_fails_as_the_turn_itself_did_leaves_one_question(self, alice: Client) -> None:
        failed = (await alice.chat("fail")).json()
        for _ in range(2):
            assert (await regenerate(alice, failed["turn_id"])).status_code == 502
        for order in ("asc", "desc"):
            (question,) = await alice.messages(failed["conversation_id"], order=order)
            assert (question["turn_id"], question["status"]) == (failed["turn_id"], "failed")

    async def test_of_a_failed_turn_answers_it(self, alice: Client) -> None:
        failed = (await alice.chat(f"once say Half\nonce fail {alice.user_id}\nsay Hi.")).json()
        assert failed["status"] == 502
        assert contents(await alice.messages(failed["conversation_id"]))[1] == "Half"
        answer = await answered_anew(alice, failed["turn_id"])
        assert answer["response"] == "Hi."
        assert [message["status"] for message in await alice.messages(answer["conversation_id"])] == [
            "completed"
        ] * 2

    async def test_while_it_runs_is_shown_in_the_place_of_the_old_answer(self, alice: Client) -> None:
        old = await alice.said("say old")
        name = uuid4().hex
        turn = asyncio.create_task(regenerate(alice, old["turn_id"], f"gate {name}\nsay new"))
        await CommandedAgent.gates[name].reached.wait()
        (question,) = await alice.messages(old["conversation_id"])
        assert question["status"] == "running"
        refused = await regenerate(alice, old["turn_id"])
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:chatapi:problem:turn-in-progress")
        await alice.post(alice.mine(f"/turns/{question['turn_id']}/cancel"))
        assert (await turn).status_code == 409
        # it had said nothing, so the old answer counts
        assert contents(await alice.messages(old["conversation_id"])) == ["say old", "old"]

    async def test_of_a_turn_that_is_not_the_last_is_409(self, alice: Client) -> None:
        old = await alice.said("say old")
        await alice.said("say next", old["conversation_id"])
        response = await regenerate(alice, old["turn_id"])
        assert (response.status_code, response.json()["type"]) == (409, "urn:chatapi:problem:turn-superseded")
        assert len(await alice.messages(old["conversation_id"], alternatives=True)) == 4

    async def test_of_what_is_not_yours_is_404(self, alice: Client, bob: Client) -> None:
        answer = await alice.said("say Hello.")
        for turn_id in (answer["turn_id"], 2**62, 2**63):
            assert (await regenerate(bob, turn_id)).status_code == 404

    async def test_with_a_key_is_done_once(self, alice: Client) -> None:
        old = await alice.said('call add_task {"title": "milk"}')
        key = {"Idempotency-Key": uuid4().hex}
        first = await regenerate(alice, old["turn_id"], **key)
        again = await regenerate(alice, old["turn_id"], **key)
        assert first.content == again.content
        assert again.headers["Idempotent-Replayed"] == "true"
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 2
        other = await regenerate(alice, old["turn_id"], "say x", **key)
        assert other.status_code == 422
        await alice.said("say next", old["conversation_id"])
        assert (await regenerate(alice, old["turn_id"], **key)).content == first.content

    async def test_with_a_key_that_failed_runs_again_as_the_same_turn(self, alice: Client) -> None:
        old = await alice.said("say old")
        key = {"Idempotency-Key": uuid4().hex}
        message = f"once fail {alice.user_id}\nhistory"
        failed = await regenerate(alice, old["turn_id"], message, **key)
        answer = await answered_anew(alice, old["turn_id"], message, **key)
        assert (failed.status_code, failed.json()["turn_id"]) == (502, answer["turn_id"])
        assert answer["response"] == "[]"

    @pytest.mark.parametrize("body", [b"{", b"[]", b'{"message": ""}', b'{"message": 1}', b'{"text": "x"}'])
    async def test_of_what_is_no_request_is_422(self, alice: Client, body: bytes) -> None:
        answer = await alice.said("say Hello.")
        response = await alice.post(
            alice.mine(f"/turns/{answer['turn_id']}/regenerate"),
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code == 422
