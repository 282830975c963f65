"""Ratings of answers."""

from typing import Any

from tests.support.metrics import scrape
from tests.support.serving import Client


async def rate(client: Client, message_id: int, **body: Any) -> Any:
    return await client.put(client.mine(f"/messages/{message_id}/feedback"), json=body)


async def test_an_answer_is_rated_anew_and_taken_back(service: str, alice: Client) -> None:
    """On an alternative too; counted once for each change of the rating, and never with the comment."""
    first = await alice.said("say Hello.")
    anew = (await alice.post(alice.mine(f"/turns/{first['turn_id']}/regenerate"))).json()
    before = await scrape(service)
    given = await rate(alice, first["message_id"], rating="up", comment="Just so 🙂")
    assert (given.status_code, given.json()["comment"]) == (200, "Just so 🙂")
    assert (await rate(alice, anew["message_id"], rating="down")).json()["comment"] is None
    again = await rate(alice, first["message_id"], rating="up")
    assert again.json()["comment"] is None
    shown = await alice.messages(first["conversation_id"], alternatives=True)
    assert [message.get("feedback") for message in shown] == [
        None,
        again.json(),
        None,
        {"rating": "down", "comment": None, "updated_at": shown[3]["feedback"]["updated_at"]},
    ]
    after = await scrape(service)
    for rating in ("up", "down"):
        assert after.get("feedback_total", rating=rating) == before.get("feedback_total", rating=rating) + 1
    for _ in range(2):
        path = alice.mine(f"/messages/{anew['message_id']}/feedback")
        assert (await alice.delete(path)).status_code == 204
    assert "feedback" not in (await alice.messages(first["conversation_id"]))[1]


async def test_only_ones_own_answers_are_rated_and_only_so(alice: Client, bob: Client) -> None:
    answer = await alice.said("say Hello.")
    message_id = answer["message_id"]
    for body in ({}, {"rating": "good"}, {"rating": None}, {"rating": "up", "comment": "x" * 2_001}):
        assert (await rate(alice, message_id, **body)).status_code == 422, body
    assert (await rate(alice, message_id, rating="up", comment="\0")).status_code == 422
    assert (await rate(alice, message_id, rating="up", stars=5)).status_code == 422
    question = (await alice.messages(answer["conversation_id"]))[0]["id"]
    assert (await rate(alice, question, rating="up")).json()["errors"][0]["path"] == "message_id"
    for client, each in ((bob, message_id), (alice, 2**62)):
        assert (await rate(client, each, rating="up")).json()[
            "type"
        ] == "urn:chatapi:problem:message-not-found"
    assert "feedback" not in (await alice.messages(answer["conversation_id"]))[1]


async def test_it_goes_with_an_answer_that_a_retry_takes_the_place_of(alice: Client) -> None:
    key = {"Idempotency-Key": f"rated-{alice.user_id}"}
    message = f"say Half an answer.\nonce fail {alice.user_id}\nsay The whole."
    failed = await alice.chat(message, headers=key)
    conversation_id = failed.json()["conversation_id"]
    half = (await alice.messages(conversation_id))[1]
    assert (await rate(alice, half["id"], rating="down")).status_code == 200
    await alice.said_with({"headers": key}, message)
    assert [message.get("feedback") for message in await alice.messages(conversation_id)] == [None, None]
