"""Tasks over REST, on both databases."""

from typing import Any

import msgspec
import pytest

from tests.support.factories import NewTaskFactory
from tests.support.serving import Client


async def add(client: Client, **values: Any) -> dict[str, Any]:
    response = await client.post(
        client.mine("/tasks"), json=values or msgspec.to_builtins(NewTaskFactory.build())
    )
    assert response.status_code == 201, response.text
    task: dict[str, Any] = response.json()
    return task


class TestAddTask:
    async def test_gives_the_task_and_its_location(self, alice: Client) -> None:
        response = await alice.post(alice.mine("/tasks"), json={"title": "milk", "description": "oat"})
        task = response.json()
        assert response.status_code == 201
        assert {name: task[name] for name in ("title", "description", "completed")} == {
            "title": "milk",
            "description": "oat",
            "completed": False,
        }
        assert (await alice.get(response.headers["Location"])).json() == task

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"title": ""},
            {"title": " \n"},
            {"title": "x" * 201},
            {"title": "nul\0"},
            {"title": "x", "description": "d" * 2001},
            {"title": "x", "description": "nul\0"},
            {"title": "x", "owner": "bob"},
            {"title": 1},
            {"title": "x", "completed": "yes"},
            [],
            None,
        ],
    )
    async def test_what_is_not_valid_is_422_and_says_where(self, alice: Client, body: object) -> None:
        response = await alice.post(alice.mine("/tasks"), json=body)
        assert response.status_code == 422, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["type"] == "urn:chatapi:problem:validation-failed"
        assert problem["errors"][0]["message"]
        assert (await alice.get(alice.mine("/tasks"))).json()["items"] == []

    async def test_the_longest_title_and_description_are_kept_whole(self, alice: Client) -> None:
        task = await add(alice, title="ü" * 200, description="🦊" * 2000)
        assert (task["title"], task["description"]) == ("ü" * 200, "🦊" * 2000)


class TestListTasks:
    async def test_pages_by_id_without_gap_or_repeat_while_tasks_are_added(self, alice: Client) -> None:
        made = [(await add(alice))["id"] for _ in range(5)]
        seen: list[int] = []
        cursor = None
        for _ in range(10):
            page = (
                await alice.get(
                    alice.mine("/tasks"), params={"limit": 2} | ({"cursor": cursor} if cursor else {})
                )
            ).json()
            seen += [task["id"] for task in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                break
            if len(made) < 7:
                made.append((await add(alice))["id"])
        assert seen == made

    async def test_filters_by_status(self, alice: Client) -> None:
        done, left = (await add(alice))["id"], (await add(alice))["id"]
        await alice.patch(alice.mine(f"/tasks/{done}/complete"))
        found = {
            status: [
                task["id"]
                for task in (await alice.get(alice.mine("/tasks"), params={"status": status})).json()["items"]
            ]
            for status in ("all", "pending", "completed")
        }
        assert found == {"all": [done, left], "pending": [left], "completed": [done]}

    @pytest.mark.parametrize(
        "query",
        [
            {"limit": 0},
            {"limit": 101},
            {"limit": "many"},
            {"status": "open"},
            {"cursor": "not-ours"},
            {"cursor": "é"},
        ],
    )
    async def test_a_query_that_is_not_valid_is_422(self, alice: Client, query: dict[str, Any]) -> None:
        response = await alice.get(alice.mine("/tasks"), params=query)
        assert response.status_code == 422
        assert response.json()["errors"][0]["path"] == next(iter(query))


class TestChangeTask:
    async def test_changes_what_is_given_and_moves_updated_at(self, alice: Client) -> None:
        task = await add(alice, title="milk", description="oat")
        changed = (await alice.patch(alice.mine(f"/tasks/{task['id']}"), json={"title": "bread"})).json()
        assert (changed["title"], changed["description"]) == ("bread", "oat")
        assert changed["updated_at"] > task["updated_at"]
        assert changed["created_at"] == task["created_at"]

    async def test_null_takes_the_description_away(self, alice: Client) -> None:
        task = await add(alice, title="milk", description="oat")
        changed = (await alice.patch(alice.mine(f"/tasks/{task['id']}"), json={"description": None})).json()
        assert changed["description"] is None

    async def test_nothing_changes_nothing(self, alice: Client) -> None:
        task = await add(alice)
        assert (await alice.patch(alice.mine(f"/tasks/{task['id']}"), json={})).json() == task

    async def test_completed_false_reopens(self, alice: Client) -> None:
        task = await add(alice)
        await alice.patch(alice.mine(f"/tasks/{task['id']}/complete"))
        reopened = (await alice.patch(alice.mine(f"/tasks/{task['id']}"), json={"completed": False})).json()
        assert reopened["completed"] is False


class TestReplaceTask:
    async def test_what_is_left_out_takes_its_default(self, alice: Client) -> None:
        task = await add(alice, title="milk", description="oat")
        await alice.patch(alice.mine(f"/tasks/{task['id']}/complete"))
        replaced = (await alice.put(alice.mine(f"/tasks/{task['id']}"), json={"title": "bread"})).json()
        assert (replaced["title"], replaced["description"], replaced["completed"]) == ("bread", None, False)

    async def test_without_a_title_is_422(self, alice: Client) -> None:
        task = await add(alice)
        response = await alice.put(alice.mine(f"/tasks/{task['id']}"), json={"completed": True})
        assert response.status_code == 422


class TestCompleteTask:
    async def test_is_the_same_when_done_again(self, alice: Client) -> None:
        path = alice.mine(f"/tasks/{(await add(alice))['id']}/complete")
        first, second = await alice.patch(path), await alice.patch(path)
        assert (first.status_code, second.status_code) == (200, 200)
        assert first.json()["completed"] is second.json()["completed"] is True


class TestDeleteTask:
    async def test_is_204_and_then_404(self, alice: Client) -> None:
        path = alice.mine(f"/tasks/{(await add(alice))['id']}")
        response = await alice.delete(path)
        assert (response.status_code, response.content) == (204, b"")
        for method in ("GET", "DELETE"):
            assert (await alice.request(method, path)).status_code == 404

    async def test_the_id_is_not_given_to_another(self, alice: Client) -> None:
        last = (await add(alice))["id"]
        await alice.delete(alice.mine(f"/tasks/{last}"))
        assert (await add(alice))["id"] > last


@pytest.mark.parametrize(
    "task_id", ["milk", "0", "-1", "9223372036854775808", "99999999999999999999999", "1.0"]
)
async def test_an_id_that_cannot_be_is_404(alice: Client, task_id: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = await alice.request(method, alice.mine(f"/tasks/{task_id}"), json={"title": "x"})
        assert (response.status_code, response.json()["status"]) == (404, 404)
