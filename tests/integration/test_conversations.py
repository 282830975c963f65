"""Conversations and messages over REST, on both databases."""

import asyncio
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from chatapi.conversations.deletion import Pieces, delete_many
from chatapi.db.paging import MAX_ID
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.logs import heard
from tests.support.serving import Client, settings_for


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

    @pytest.mark.parametrize(
        "cursor",
        [
            "x",
            "W10=",
            "WzEsMl0=",
            "WyJhIiwxXQ==",
            *(
                urlsafe_b64encode(f'[true,"{moment}",{id_}]'.encode()).decode()
                for moment, id_ in (
                    ("2026-01-01T00:00:00", 1),
                    ("0001-01-01T00:00:00+14:00", 1),
                    ("9999-12-31T23:59:59-14:00", 1),
                    ("2026-01-01T00:00:00Z", MAX_ID + 1),
                )
            ),
        ],
    )
    async def test_a_cursor_that_is_not_ours_is_422(self, alice: Client, cursor: str) -> None:
        response = await alice.get(alice.mine("/conversations"), params={"cursor": cursor})
        assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "cursor")


class TestPinnedAndArchived:
    async def test_pinned_come_first_and_archived_only_where_asked_for(self, alice: Client) -> None:
        """The order holds over pages while others are added, pinned and archived behind the reader's back."""
        a, b, c, d, e = [(await alice.said("say Hello."))["conversation_id"] for _ in range(5)]
        for conversation_id, changes in (
            (b, {"pinned": True}),
            (c, {"archived": True}),
            (a, {"archived": True, "pinned": True}),
        ):
            response = await alice.patch(alice.mine(f"/conversations/{conversation_id}"), json=changes)
            assert changes.items() <= response.json().items()
        for archived, expected in (("false", [b, e, d]), ("true", [a, c]), ("any", [b, a, e, d, c])):
            found = await walk(alice, "/conversations", limit=2, archived=archived)
            assert [item["id"] for item in found] == expected, archived
        assert [item["id"] for item in await walk(alice, "/conversations", limit=100)] == [b, e, d]
        for archived, seen, rest in (("false", [b, e], [d]), ("any", [b, a], [d, c])):
            query: dict[str, Any] = {"limit": 2, "archived": archived}
            first = (await alice.get(alice.mine("/conversations"), params=query)).json()
            assert [item["id"] for item in first["items"]] == seen
            await alice.said("say New.")  # before the place of the cursor, where the reader has been
            after = await walk(alice, "/conversations", **query, cursor=first["next_cursor"])
            assert [item["id"] for item in after if item["id"] <= e and item["id"] not in seen] == (
                [e, *rest] if archived == "any" else rest
            )
            assert len({item["id"] for item in after}) == len(after)
        assert (await alice.get(alice.mine("/conversations?archived=yes"))).status_code == 422

    async def test_a_new_message_takes_it_out_of_the_archive_and_an_end_does_not(self, alice: Client) -> None:
        answer = await alice.said("say Hello.")
        conversation_id = answer["conversation_id"]
        path = alice.mine(f"/conversations/{conversation_id}")
        await alice.patch(path, json={"archived": True, "pinned": True})
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}", conversation_id))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        assert (await alice.get(path)).json()["archived"] is False
        await alice.patch(path, json={"archived": True})
        CommandedAgent.gates[alice.user_id].opened.set()
        turn_id = (await turn).json()["turn_id"]
        found = (await alice.get(path)).json()
        assert (found["archived"], found["pinned"]) == (True, True)
        regenerated = await alice.post(
            alice.mine(f"/turns/{turn_id}/regenerate"), json={"message": "say Hi."}
        )
        assert regenerated.status_code == 200
        assert (await alice.get(path)).json()["archived"] is False


class TestDeleteMany:
    async def test_takes_what_is_archived_or_old_and_says_how_many(
        self, alice: Client, bob: Client, database_url: str
    ) -> None:
        """In several transactions, with a turn under way in one of them."""
        ids = [(await alice.said("say Hello."))["conversation_id"] for _ in range(6)]
        of_bob = (await bob.said("say Hello."))["conversation_id"]
        await bob.patch(bob.mine(f"/conversations/{of_bob}"), json={"archived": True})
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}", ids[0]))
        await CommandedAgent.gates[alice.user_id].reached.wait()
        for conversation_id in ids[:3]:
            await alice.patch(alice.mine(f"/conversations/{conversation_id}"), json={"archived": True})
        path = alice.mine("/conversations")
        fourth = (await alice.get(alice.mine(f"/conversations/{ids[4]}"))).json()["updated_at"]
        moments = ("2026", "2026-11-29T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")
        for query in ({}, {"archived": "false"}, *({"before": moment} for moment in moments)):
            assert (await alice.delete(path, params=query)).status_code == 422, query
        both = {"archived": "true", "before": "2020-01-01T00:00:00+02:00"}
        assert (await alice.delete(path, params=both)).json() == {"deleted": 0}
        database = open_database(settings_for(database_url))
        assert await delete_many(database, alice.user_id, archived=True, pieces=Pieces(batch=2, turns=1)) == 3
        await database.close()
        assert (await turn).json()["type"] == "urn:chatapi:problem:turn-cancelled"
        with heard("chatapi.audit") as events:
            assert (await alice.delete(path, params={"before": fourth})).json() == {"deleted": 1}
        assert json.loads(events[-1])["action"] == "conversations.deleted"
        assert json.loads(events[-1])["deleted"] == 1
        left = await walk(alice, "/conversations", limit=100, archived="any")
        assert [item["id"] for item in left] == [ids[5], ids[4]]
        assert (await bob.get(bob.mine(f"/conversations/{of_bob}"))).status_code == 200


class TestOneConversation:
    async def test_is_read_and_renamed_without_moving(self, alice: Client) -> None:
        first = (await alice.said("say Hello."))["conversation_id"]
        second = (await alice.said("say Hello."))["conversation_id"]
        path = alice.mine(f"/conversations/{first}")
        before = (await alice.get(path)).json()
        assert (before["id"], before["title"]) == (first, None)
        assert (await alice.patch(path, json={})).json() == before
        renamed = (await alice.patch(path, json={"title": "Shopping"})).json()
        assert renamed == {**before, "title": "Shopping"}
        assert (await alice.get(path)).json() == renamed
        assert [item["id"] for item in await walk(alice, "/conversations", limit=100)] == [second, first]
        assert (await alice.patch(path, json={"title": None})).json()["title"] is None

    async def test_a_change_that_is_not_valid_is_422_and_changes_nothing(self, alice: Client) -> None:
        path = alice.mine(f"/conversations/{(await alice.said('say Hello.'))['conversation_id']}")
        before = (await alice.get(path)).json()
        deep: list[Any] = []
        for _ in range(40):
            deep = [deep]
        titles = ("", " ", "x" * 201, 1, "\0")
        metadata: tuple[Any, ...] = (
            [],
            None,
            "x",
            {"a": "\0"},
            {"a\0": 1},
            {"a": [{"b": "\0"}]},
            {"a": "x" * 4_096},
            {"a": deep},
        )
        bodies: list[Any] = [[], {"titel": "x"}, {"archived": None}, {"archived": "true"}, {"pinned": 1}]
        bodies += [{"title": title} for title in titles] + [{"metadata": each} for each in metadata]
        for body in bodies:
            response = await alice.patch(path, json=body)
            assert response.status_code == 422, body
            if isinstance(body, dict) and "titel" not in body:
                assert response.json()["errors"][0]["path"] in body
        assert (await alice.get(path)).json() == before

    async def test_metadata_is_kept_as_it_is_and_replaced_whole(self, alice: Client) -> None:
        path = alice.mine(f"/conversations/{(await alice.said('say Hello.'))['conversation_id']}")
        most = {"a": "x" * (4_096 - len('{"a":""}'))}
        examples: list[dict[str, Any]] = [
            {"folder": "Ä/\u20ac", "tags": ["a", None, 1.5, True], "n": 10**30, "": {"\\u0000": "\\"}},
            most,
            {},
        ]
        for metadata in examples:
            assert (await alice.patch(path, json={"metadata": metadata})).json()["metadata"] == metadata
            assert (await alice.get(path)).json()["metadata"] == metadata

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
