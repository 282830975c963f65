"""A service and the issuer whose tokens it takes, over real HTTP: rotation, floods, outages."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from chatapi.auth.jwks import PAUSE_SECONDS, SEARCH_BURST
from tests.support.issuer import Issuer, SigningKey, base64url, issuing
from tests.support.serving import SECRET, serve, settings_for

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as found:
        yield found


@pytest.fixture
def service_of(issuer: Issuer, tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def served(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        changes = {"better_auth_url": issuer.url, "better_auth_secret": None, **changes}
        settings = settings_for(f"sqlite:///{tmp_path / 'chatapi.db'}", **changes)
        # None kept alive: on a slow machine the server would close one just when it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with (
            serve(settings) as url,
            httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client,
        ):
            yield client

    return served


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/me", headers={"Authorization": f"Bearer {token}"})


async def test_keys_are_fetched_with_the_first_token_and_shared_by_all_routes(
    issuer: Issuer, service_of: Serve
) -> None:
    async with service_of() as client:
        assert (await client.get("/health/live")).status_code == 200
        assert issuer.fetches == 0
        headers = {"Authorization": f"Bearer {issuer.token()}"}
        for path in ("/api/me", "/api/alice/tasks", "/api/alice/conversations"):
            assert (await client.get(path, headers=headers)).status_code == 200
        body = {"message": "say Hello."}
        assert (await client.post("/api/chat", headers=headers, json=body)).status_code == 200
    assert issuer.fetches == 1


async def test_the_first_token_after_a_rotation_is_taken(issuer: Issuer, service_of: Serve) -> None:
    async with service_of() as client:
        old = issuer.token()
        assert (await ask(client, old)).status_code == 200
        issuer.keys.append(SigningKey("ES256"))  # as Better Auth does it: the old one stays listed
        assert (await ask(client, issuer.token(issuer.keys[1]))).status_code == 200
        assert (await ask(client, old)).status_code == 200


async def test_a_flood_of_invented_kids_is_a_handful_of_fetches(issuer: Issuer, service_of: Serve) -> None:
    mallory = SigningKey("EdDSA", number=1)
    async with service_of() as client:
        assert (await ask(client, issuer.token())).status_code == 200
        started = time.monotonic()
        tokens = [issuer.token(SigningKey("EdDSA", f"invented-{n}", number=1)) for n in range(499)]
        # No more at once than there are connections: for each that waits for one, the client looks through all of
        # them whenever anything happens.
        at_once = asyncio.Semaphore(50)

        async def ask_in_turn(token: str) -> httpx.Response:
            async with at_once:
                return await ask(client, token)

        answers = await asyncio.gather(*(ask_in_turn(token) for token in [*tokens, issuer.token(mallory)]))
        assert {answer.status_code for answer in answers} == {401}
        assert (await ask(client, issuer.token())).status_code == 200
        # One at the start, the burst, and one for each five seconds that the flood may last on a slow machine.
        most = 1 + SEARCH_BURST + (time.monotonic() - started) / PAUSE_SECONDS
        assert 2 <= issuer.fetches <= most


async def test_what_cannot_be_an_issuers_token_costs_no_fetch(issuer: Issuer, service_of: Serve) -> None:
    async with service_of() as client:
        for token in ("milk", jwt.encode({"sub": "alice"}, SECRET, algorithm="HS256")):
            assert (await ask(client, token)).status_code == 401
    assert issuer.fetches == 0


async def test_the_others_are_served_while_keys_are_fetched(issuer: Issuer, service_of: Serve) -> None:
    issuer.answer = issuer.hangs
    async with service_of(better_auth_secret=SECRET) as client:
        waiting = asyncio.create_task(ask(client, issuer.token()))
        await issuer.asked.wait()
        assert (await client.get("/health")).status_code == 200
        assert (await ask(client, jwt.encode(issuer.claims(), SECRET, algorithm="HS256"))).status_code == 200
        assert not waiting.done()
        issuer.released.set()
        assert (await waiting).status_code == 200


async def test_an_outage_keeps_the_keys(issuer: Issuer, service_of: Serve) -> None:
    async with service_of() as client:
        assert (await ask(client, issuer.token())).status_code == 200
        issuer.sends("oops", "500 Internal Server Error")
        for _ in range(3):
            assert (await ask(client, issuer.token(SigningKey("EdDSA", number=1)))).status_code == 401
            assert (await ask(client, issuer.token())).status_code == 200
        assert issuer.fetches >= 2


async def test_without_keys_it_starts_and_says_503_without_asking_each_time(
    issuer: Issuer, service_of: Serve
) -> None:
    issuer.sends("oops", "500 Internal Server Error")
    async with service_of(better_auth_secret=SECRET, demo_mode=True) as client:
        assert (await client.get("/health/ready")).status_code == 200
        started = time.monotonic()
        answers = await asyncio.gather(*(ask(client, issuer.token()) for _ in range(100)))
        assert issuer.fetches <= 1 + (time.monotonic() - started) / PAUSE_SECONDS
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:chatapi:problem:jwks-unavailable"
            assert 1 <= int(answer.headers["Retry-After"]) <= PAUSE_SECONDS
            assert "www-authenticate" not in answer.headers
        # Who needs no published key goes on.
        assert (await ask(client, jwt.encode(issuer.claims(), SECRET, algorithm="HS256"))).status_code == 200
        assert (await client.get("/api/me")).json()["user_id"] == "demo"


async def test_a_configured_audience_and_issuer_hold_instead_of_the_derived(
    issuer: Issuer, service_of: Serve
) -> None:
    async with service_of(
        jwt_issuer="https://issuer", jwt_audience="chat", better_auth_secret=SECRET
    ) as client:
        for claims, status in (
            ({"iss": "https://issuer", "aud": "chat"}, 200),
            ({"iss": "https://issuer"}, 401),
            ({"aud": "chat"}, 401),
            ({}, 401),
        ):
            assert (await ask(client, issuer.token(**claims))).status_code == status
            token = jwt.encode(issuer.claims(**claims), SECRET, algorithm="HS256")
            assert (await ask(client, token)).status_code == status


async def test_another_providers_key_set_has_no_audience_but_the_configured(
    issuer: Issuer, service_of: Serve
) -> None:
    async with service_of(
        better_auth_url=None, jwks_url=f"{issuer.url}/keys?tenant=1", jwt_issuer="https://issuer"
    ) as client:
        assert (await ask(client, issuer.token(iss="https://issuer", aud=["any"]))).status_code == 200
        assert (await ask(client, issuer.token(iss="https://issuer", aud=...))).status_code == 200
        assert (await ask(client, issuer.token())).status_code == 401
    assert issuer.requests == ["/keys?tenant=1"]


class TestSeveralHosts:
    """One Better Auth server under several addresses, or several of them."""

    async def test_each_is_issuer_and_audience_of_its_own_tokens(
        self, issuer: Issuer, service_of: Serve
    ) -> None:
        async with (
            issuing(SigningKey("EdDSA", number=2)) as other,
            service_of(better_auth_url=f"{issuer.url},{other.url}") as client,
        ):
            for one in (issuer, other):
                assert (await ask(client, one.token())).status_code == 200
                assert (await ask(client, one.token(iss=f"{one.url}/"))).status_code == 200
            for one, another in ((issuer, other), (other, issuer)):
                refused = [
                    one.token(iss=another.url, aud=another.url),
                    one.token(iss=another.url),
                    one.token(aud=another.url),
                    one.token(iss="https://nobody.example"),
                    one.token(iss=...),
                ]
                answers = [await ask(client, token) for token in refused]
                assert [answer.status_code for answer in answers] == [401] * len(refused)
            metadata = await client.get("/.well-known/oauth-protected-resource/mcp")
            assert metadata.json()["authorization_servers"] == [issuer.url, other.url]

    async def test_tokens_by_the_secret_may_name_any_of_the_issuers_and_audiences(
        self, issuer: Issuer, service_of: Serve
    ) -> None:
        async with service_of(
            better_auth_secret=SECRET, jwt_issuer="https://a,https://b", jwt_audience="chat,app"
        ) as client:
            for claims, status in (
                ({"iss": "https://a", "aud": "app"}, 200),
                ({"iss": "https://b", "aud": ["x", "chat"]}, 200),
                ({"iss": "https://c", "aud": "chat"}, 401),
                ({"iss": "https://a", "aud": "x"}, 401),
            ):
                for token in (
                    issuer.token(**claims),
                    jwt.encode(issuer.claims(**claims), SECRET, algorithm="HS256"),
                ):
                    assert (await ask(client, token)).status_code == status

    async def test_the_one_that_is_away_keeps_nobody_else_out(
        self, issuer: Issuer, service_of: Serve
    ) -> None:
        async with issuing(SigningKey("EdDSA", number=2)) as other:
            other.sends("oops", "500 Internal Server Error")
            async with service_of(better_auth_url=f"{other.url},{issuer.url}") as client:
                assert (await ask(client, other.token())).status_code == 503
                assert (await ask(client, issuer.token())).status_code == 200


@pytest.mark.parametrize("listed", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("named", ["EdDSA", "Ed25519"])
async def test_an_algorithm_may_be_called_by_its_newer_name(
    issuer: Issuer, service_of: Serve, listed: str, named: str
) -> None:
    """RFC 9864 calls EdDSA with this curve by the curve's name."""
    (key,) = issuer.keys
    issuer.sends_keys(key.jwk(alg=listed))
    claims = issuer.claims()
    header = {"alg": named, "kid": key.kid}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    token = f"{signed}.{base64url(key.private.sign(signed.encode()))}"
    async with service_of() as client:
        for _ in range(2):  # checked, and remembered
            answer = await ask(client, token)
            assert (answer.status_code, answer.json().get("user_id")) == (200, "alice"), answer.text
