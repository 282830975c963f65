"""API keys: made once, good for almost everything, and gone at once when they are revoked."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from chatapi.auth.api_keys import APIKeys, is_whole, make_key
from chatapi.db.schema import Schema
from tests.support.databases import open_database
from tests.support.logs import heard
from tests.support.openai_sdk import sdk
from tests.support.serving import SLOW_MACHINE, Client, anybody, execute, serve, settings_for, two_replicas

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


async def made(client: Client, **members: Any) -> dict[str, Any]:
    response = await client.post(client.mine("/keys"), json={"name": "a program", **members})
    assert response.status_code == 201, response.text
    key: dict[str, Any] = response.json()
    return key


async def listed(client: Client) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = (await client.get(client.mine("/keys"))).json()["items"]
    return keys


async def last_use(client: Client) -> datetime:
    """The last use of the client's one key, as soon as one is stored."""
    async with asyncio.timeout(60):
        while (used := (await listed(client))[0]["last_used_at"]) is None:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
    return datetime.fromisoformat(used)


def with_key(url: str | httpx.URL, key: str) -> httpx.AsyncClient:
    return anybody(url, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
async def program(alice: Client) -> AsyncIterator[httpx.AsyncClient]:
    """A program that has a key of Alice's."""
    async with with_key(alice.base_url, (await made(alice))["key"]) as client:
        yield client


class TestMaking:
    async def test_shows_the_key_once(self, alice: Client, bob: Client) -> None:
        expires_at = datetime.now(UTC) + timedelta(days=1)
        key = await made(alice, expires_at=expires_at.isoformat())
        assert is_whole(key["key"])
        assert key["key"].startswith(key["prefix"])
        assert datetime.fromisoformat(key["expires_at"]) == expires_at
        assert await listed(alice) == [{name: value for name, value in key.items() if name != "key"}]
        assert await listed(bob) == []

    @pytest.mark.parametrize(
        ("members", "path"),
        [
            ({}, "name"),
            ({"name": " "}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"name": "x", "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
            ({"name": "x", "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
            ({"name": "x", "scopes": []}, "scopes"),
        ],
    )
    async def test_refuses_what_cannot_be(self, alice: Client, members: dict[str, Any], path: str) -> None:
        response = await alice.post(alice.mine("/keys"), json=members)
        assert response.status_code == 422
        assert path in response.json()["detail"]
        assert await listed(alice) == []

    async def test_is_listed_page_by_page(self, alice: Client) -> None:
        ids = [(await made(alice))["id"] for _ in range(3)]
        first = (await alice.get(alice.mine("/keys"), params={"limit": 2})).json()
        rest = await alice.get(alice.mine("/keys"), params={"cursor": first["next_cursor"]})
        assert [each["id"] for each in first["items"] + rest.json()["items"]] == ids


class TestUse:
    async def test_a_key_acts_for_its_user_everywhere(
        self, alice: Client, bob: Client, program: httpx.AsyncClient
    ) -> None:
        assert (await program.get("/api/me")).json()["user_id"] == alice.user_id
        task = (await program.post(alice.mine("/tasks"), json={"title": "milk"})).json()
        assert (await alice.get(alice.mine("/tasks"))).json()["items"] == [task]
        assert (await program.get(bob.mine("/tasks"))).status_code == 403
        accepts = {"Accept": "application/json, text/event-stream"}
        assert (await program.post("/mcp", json=INITIALIZE, headers=accepts)).status_code == 200
        async with sdk(
            str(alice.base_url), "nobody", api_key=program.headers["authorization"].split()[1]
        ) as client:
            assert len((await client.models.list()).data) == 2

    async def test_but_not_for_keys_and_not_for_erasure(
        self, alice: Client, program: httpx.AsyncClient
    ) -> None:
        (key,) = await listed(alice)
        for method, path in [
            ("GET", "/keys"),
            ("POST", "/keys"),
            ("DELETE", f"/keys/{key['id']}"),
            ("DELETE", f"?confirm={alice.user_id}"),
        ]:
            body = {"name": "another"} if method == "POST" else None
            with heard("chatapi.audit") as messages:
                refused = await program.request(method, alice.mine(path), json=body)
            assert refused.status_code == 403
            assert refused.json()["type"] == "urn:chatapi:problem:key-not-allowed"
            event = json.loads(messages[-1])
            assert (event["action"], event["by_key_id"]) == ("key.denied", key["id"])
        assert [each["id"] for each in await listed(alice)] == [key["id"]]

    async def test_is_noted_once_an_hour_and_beside_the_request(
        self, database_url: str, alice: Client
    ) -> None:
        key = (await made(alice))["key"]
        settings = settings_for(database_url)
        database = open_database(settings)
        now = datetime(2026, 11, 29, 10, 5, tzinfo=UTC)
        keys = APIKeys(database, Schema(database, settings, SLOW_MACHINE), clock=lambda: now)
        assert [each["last_used_at"] for each in await listed(alice)] == [None]
        await keys.verify(key)
        assert await last_use(alice) == datetime(2026, 11, 29, 10, tzinfo=UTC)
        await execute(
            database_url, "UPDATE api_keys SET last_used_at = NULL WHERE user_id = :id", id=alice.user_id
        )
        now = datetime(2026, 11, 29, 10, 59, tzinfo=UTC)
        await keys.verify(key)
        now = datetime(2026, 11, 29, 11, 0, tzinfo=UTC)
        await keys.verify(key)
        assert await last_use(alice) == datetime(2026, 11, 29, 11, tzinfo=UTC)
        await keys.close()
        await database.close()

    async def test_counts_against_the_limit_of_its_user(self, database_url: str) -> None:
        name = f"alice-{uuid4().hex}"
        async with (
            serve(settings_for(database_url, rate_limit="3/minute")) as url,
            Client(url, name) as alice,
        ):
            key = (await made(alice))["key"]
            await listed(alice)
            async with sdk(url, "nobody", api_key=key) as client:
                await client.models.list()
                with pytest.raises(openai.RateLimitError):
                    await client.models.list()
            assert (await alice.get("/api/me")).status_code == 429


class TestRefusal:
    async def test_a_revoked_key_is_refused_at_once_by_every_replica(self, database_url: str) -> None:
        async with two_replicas(database_url, f"alice-{uuid4().hex}") as (here, there):
            key = await made(here)
            async with (
                with_key(here.base_url, key["key"]) as one,
                with_key(there.base_url, key["key"]) as other,
            ):
                assert [(await each.get("/api/me")).status_code for each in (one, other)] == [200, 200]
                assert (await here.delete(here.mine(f"/keys/{key['id']}"))).status_code == 204
                assert [(await each.get("/api/me")).status_code for each in (one, other)] == [401, 401]
            assert (await here.delete(here.mine(f"/keys/{key['id']}"))).status_code == 404

    async def test_says_why_and_is_in_the_trail_without_the_key(
        self, database_url: str, service: str, alice: Client
    ) -> None:
        late, unknown = await made(alice), make_key()
        await execute(
            database_url,
            "UPDATE api_keys SET expires_at = :past WHERE id = :id",
            past=datetime(2020, 1, 1, tzinfo=UTC) if "postgresql" in database_url else "2020-01-01 00:00:00",
            id=late["id"],
        )
        broken = unknown.key[:-1] + ("a" if unknown.key[-1] == "b" else "b")
        for key, reason in [
            (late["key"], f"the API key {late['prefix']}... has expired"),
            (unknown.key, f"the API key {unknown.prefix}... is not known here, or was revoked"),
            (broken, "this is no whole API key"),
            ("ck_", "this is no whole API key"),
        ]:
            with heard("chatapi.audit") as messages:
                async with with_key(service, key) as client:
                    refused = await client.get("/api/me")
            assert refused.status_code == 401
            assert refused.json()["detail"] == reason
            assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
            event = json.loads(messages[-1])
            assert (event["action"], event["detail"]) == ("sign_in.denied", reason)
            assert key == "ck_" or key not in messages[-1]

    async def test_in_openais_words(self, service: str) -> None:
        async with sdk(service, "nobody", api_key=make_key().key) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.models.list()
        assert refused.value.code == "invalid_api_key"

    async def test_after_erasure(self, alice: Client, program: httpx.AsyncClient) -> None:
        assert (await alice.delete(alice.mine(f"?confirm={alice.user_id}"))).status_code == 204
        assert (await program.get("/api/me")).status_code == 401


def test_a_key_has_enough_to_guess_and_a_form_to_search_leaks_for() -> None:
    made_keys = [make_key() for _ in range(200)]
    assert all(is_whole(each.key) and len(each.key) == 45 for each in made_keys)
    assert len({each.prefix for each in made_keys}) == 200
    assert len({each.key[:3] for each in made_keys}) == 1
