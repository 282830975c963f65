"""Conversations and messages over REST, on both databases."""

import asyncio
from typing import Any

import pytest

from tests.support.agents import CommandedAgent
from tests.support.serving import Client


async def walk(client: Client, path: str, **query: Any) -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    items: list[dict[str, Any]] = []
    while True:
        response = await client.get(client.mine(path), params=query)
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page["items"]) <= query["limit"]
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        query["cursor"] = page["next_cursor"]


class TestListConversations:
    async def test_newest_activity_comes_first_over_pages(self, alice: Client) -> None:
        ids = [(await alice.said("say Hello."))["conversation_id"] for _ in range(5)]
        await alice.said("say Again.", ids[1])
        found = await walk(alice, "/conversations", limit=2)
        assert [item["id"] for item in found] == [ids[1], ids[4], ids[3], ids[2], ids[0]]
        assert found[0]["updated_at"] > found[0]["created_at"]

    async def test_what_begins_meanwhile_neither_hides_nor_repeats_another(self, alice: Client) -> None:
        ids = [(await alice.said("say Hello."))["conversation_id"] for _ in range(4)]
        first = (await alice.get(alice.mine("/conversations"), params={"limit": 2})).json()
        await alice.said("say New.")
        rest = await walk(alice, "/conversations", limit=2, cursor=first["next_cursor"])
        assert [item["id"] for item in first["items"] + rest] == ids[::-1]

    async def test_a_failed_turn_is_activity_too(self, alice: Client) -> None:
        first = (await alice.said("say Hello."))["conversation_id"]
        await alice.said("say Hello.")
        await alice.chat("fail", first)
        assert (await walk(alice, "/conversations", limit=100))[0]["id"] == first

    @pytest.mark.parametrize("cursor", ["x", "W10=", "WzEsMl0=", "WyJhIiwxXQ=="])
    async def test_a_cursor_that_is_not_ours_is_422(self, alice: Client, cursor: str) -> None:
        response = await alice.get(alice.mine("/conversations"), params={"cursor": cursor})
        assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "cursor")


class TestOneConversation:
    async def test_is_read_and_renamed_without_moving(self, alice: Client) -> None:
        first = (await alice.said("say Hello."))["conversation_id"]
        second = (await alice.said("say Hello."))["conversation_id"]
        path = alice.mine(f"/conversations/{first}")
        before = (await alice.get(path)).json()
        assert (before["id"], before["title"]) == (first, None)
        renamed = (await alice.patch(path, json={"title": "Shopping"})).json()
        assert renamed == {**before, "title": "Shopping"}
        assert (await alice.get(path)).json() == renamed
        assert [item["id"] for item in await walk(alice, "/conversations", limit=100)] == [second, first]
        assert (await alice.patch(path, json={"title": None})).json()["title"] is None

    @pytest.mark.parametrize(
        "body", [{}, {"title": ""}, {"title": " "}, {"title": "x" * 201}, {"titel": "x"}, []]
    )
    async def test_a_title_that_is_not_valid_is_422(self, alice: Client, body: object) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        assert (
            await alice.patch(alice.mine(f"/conversations/{conversation_id}"), json=body)
        ).status_code == 422

    async def test_delete_takes_its_messages_and_no_other(self, alice: Client) -> None:
        gone = (await alice.said('call add_task {"title": "milk"}'))["conversation_id"]
        kept = (await alice.said("say Hello."))["conversation_id"]
        path = alice.mine(f"/conversations/{gone}")
        response = await alice.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        for method, below in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("GET", "/messages")):
            assert (await alice.request(method, path + below, json={"title": "x"})).status_code == 404
        assert (await alice.chat("say Hello.", gone)).status_code == 404
        assert len(await alice.messages(kept)) == 2
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1  # what it did stays done

    async def test_delete_cancels_a_turn_under_way(self, alice: Client) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        turn = asyncio.create_task(
            alice.chat(f"gate {alice.user_id}\n" + 'call add_task {"title": "milk"}', conversation_id)
        )
        await CommandedAgent.gates[alice.user_id].reached.wait()
        assert (await alice.delete(alice.mine(f"/conversations/{conversation_id}"))).status_code == 204
        response = await turn
        assert (response.status_code, response.json()["type"]) == (409, "urn:chatapi:problem:turn-cancelled")
        assert (await alice.get(alice.mine("/tasks"))).json()["items"] == []


class TestListMessages:
    async def test_pages_in_both_orders(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        for number in range(1, 4):
            await alice.said(f"say {number}", conversation_id)
        path = f"/conversations/{conversation_id}/messages"
        oldest_first = await walk(alice, path, limit=3)
        assert [message["content"] for message in oldest_first[1::2]] == ["0", "1", "2", "3"]
        assert await walk(alice, path, limit=3, order="desc") == oldest_first[::-1]

    @pytest.mark.parametrize("query", [{"order": "up"}, {"limit": 101}, {"cursor": "x"}])
    async def test_a_query_that_is_not_valid_is_422(self, alice: Client, query: dict[str, Any]) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        response = await alice.get(alice.mine(f"/conversations/{conversation_id}/messages"), params=query)
        assert response.status_code == 422

    async def test_shows_a_turn_under_way_as_running(self, alice: Client) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}", conversation_id))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        *_, last = await alice.messages(conversation_id)
        assert (last["role"], last["status"]) == ("user", "running")
        CommandedAgent.gates[alice.user_id].opened.set()
        await turn
