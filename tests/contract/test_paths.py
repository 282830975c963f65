"""User ids of every kind, in paths and in headers that are made of them."""

from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.support.serving import Client


@pytest.mark.parametrize("user_id", ["日本 ü", "a\nb: c", 'quote"d', "100%", "a+b@example.org"])
async def test_a_tasks_location_can_be_followed(service: str, user_id: str) -> None:
    user_id += uuid4().hex
    async with Client(service, user_id) as client:
        response = await client.post(f"/api/{quote(user_id, safe='')}/tasks", json={"title": "milk"})
        assert response.status_code == 201
        assert (await client.get(response.headers["Location"])).json() == response.json()
        gone = await client.get(f"/api/{quote(user_id, safe='')}/tasks/0")
        assert gone.json()["instance"] == quote(f"/api/{user_id}/tasks/0")
