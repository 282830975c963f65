"""Forged and bent tokens against the running service. The table with the reasons is in tests/support/attacks.py."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.attacks import ATTACKS, World
from tests.support.issuer import ALGORITHMS, Issuer, issuing
from tests.support.serving import anybody, serve, settings_for


@pytest.fixture(scope="module")
async def evil() -> AsyncIterator[Issuer]:
    async with issuing() as server:
        yield server


@pytest.fixture(scope="module")
async def world(evil: Issuer) -> AsyncIterator[World]:
    world = World()
    async with issuing() as issuer:
        world.issuer = issuer
        world.evil_url = evil.url
        issuer.sends_keys(*world.key_set())
        yield world


@pytest.fixture(scope="module")
async def client(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    database = tmp_path_factory.mktemp("attacks") / "chatapi.db"
    settings = settings_for(f"sqlite:///{database}", better_auth_url=world.issuer.url)
    async with serve(settings) as url, anybody(url) as client:
        yield client


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/me", headers=[(b"Authorization", f"Bearer {token}".strip().encode())])


@pytest.mark.parametrize("name", ATTACKS)
async def test_is_refused_for_its_reason(client: httpx.AsyncClient, world: World, name: str) -> None:
    attack = ATTACKS[name]
    response = await ask(client, attack.token(world))
    assert response.status_code == 401, response.text
    assert response.json()["detail"] == attack.refusal
    assert response.headers["WWW-Authenticate"] == (
        f'Bearer error="invalid_token", error_description="{attack.refusal}"'
    )
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:chatapi:problem:unauthenticated"


class TestWithoutTheTwist:
    """What the attacks are variations of is taken, so that each fails for its twist alone."""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_every_algorithm(self, client: httpx.AsyncClient, world: World, algorithm: str) -> None:
        response = await ask(client, world.good(world.keys[algorithm]))
        assert (response.status_code, response.json().get("user_id")) == (200, "alice"), response.text

    async def test_the_shared_secret_beside_them(self, client: httpx.AsyncClient, world: World) -> None:
        assert (await ask(client, world.secretly())).status_code == 200
        # What is derived from BETTER_AUTH_URL holds for its own tokens only.
        assert (await ask(client, world.secretly(iss=..., aud=...))).status_code == 200

    @pytest.mark.parametrize(
        ("header", "changes"),
        [
            ({"typ": "JWT"}, {}),
            ({"typ": "jwt"}, {}),
            ({"typ": "at+jwt"}, {}),
            ({"cty": "json", "unknown": 1}, {}),
            ({"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "x5c": ["milk"], "jwk": 5}, {}),
            ({}, {"exp": lambda: time.time() + 3600.5}),
            ({}, {"exp": lambda: time.time() - 5}),
            ({}, {"nbf": lambda: time.time() + 5, "iat": lambda: time.time() + 5}),
            ({}, {"jti": "7", "scope": ["a"], "name": "ü" * 1_000}),
            ({}, {"nested": {"sub": "a", "more": {"sub": "b"}}}),
        ],
    )
    async def test_variations_that_are_allowed(
        self, client: httpx.AsyncClient, world: World, header: dict[str, Any], changes: dict[str, Any]
    ) -> None:
        claims = {name: value() if callable(value) else value for name, value in changes.items()}
        response = await ask(client, world.good(world.ed, header, **claims))
        assert response.status_code == 200, response.text

    async def test_issuer_and_audience_as_they_may_be_written(
        self, client: httpx.AsyncClient, world: World
    ) -> None:
        for changes in (
            {"iss": world.issuer.url + "/", "aud": world.issuer.url + "/"},
            {"aud": ["https://other.example", world.issuer.url]},
        ):
            assert (await ask(client, world.good(**changes))).status_code == 200

    async def test_hand_made_tokens(self, client: httpx.AsyncClient, world: World) -> None:
        assert (await ask(client, world.headed())).status_code == 200
        assert (await ask(client, world.mac(b"a-secret-for-tests-that-is-long-enough"))).status_code == 200

    async def test_without_a_kid_where_one_key_fits(self, client: httpx.AsyncClient, world: World) -> None:
        assert (await ask(client, world.good(world.keys["ES512"], {"kid": None}))).status_code == 200


def test_there_are_enough() -> None:
    assert len(ATTACKS) >= 40
    assert len({attack.refusal for attack in ATTACKS.values()}) >= 12


async def test_nothing_that_a_token_names_is_ever_fetched(
    client: httpx.AsyncClient, world: World, evil: Issuer
) -> None:
    for attack in ATTACKS.values():
        await ask(client, attack.token(world))
    assert evil.fetches == 0
    assert set(world.issuer.requests) == {"/api/auth/jwks"}
