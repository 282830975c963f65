"""A real Better Auth server and the service that takes its tokens: sign-up to answer."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from chatapi.patience import Patience
from tests.support.better_auth import User, better_auth, missing
from tests.support.issuer import ALGORITHMS
from tests.support.serving import SECRET, anybody, serve, settings_for

pytestmark = pytest.mark.slow

if why := missing():
    pytest.skip(why, allow_module_level=True)

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

SERVERS: dict[str, dict[str, Any]] = {
    **{algorithm: {"jwks": {"keyPairConfig": {"alg": algorithm}}} for algorithm in ALGORITHMS[1:]},
    "EdDSA": {},  # the default
    "expired": {"jwt": {"expirationTime": 1}},  # a time, not a duration: shortly after midnight in 1970
    "keyed cookies": {"cookieCache": "key"},
    "secret cookies": {"cookieCache": "secret"},
}


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[dict[str, str]]:
    async with better_auth(**SERVERS) as urls:
        yield urls


@pytest.fixture
def service_of(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def served(better_auth_url: str | None, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        settings = settings_for(
            f"sqlite:///{tmp_path / 'chatapi.db'}",
            **{"better_auth_url": better_auth_url, "better_auth_secret": None, **changes},
        )
        async with serve(settings) as url, anybody(url) as client:
            yield client

    return served


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/me", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_who_signs_up_there_is_known_here(
    servers: dict[str, str], service_of: Serve, algorithm: str
) -> None:
    async with service_of(servers[algorithm]) as client, User(servers[algorithm]) as alice:
        token = await (await alice.sign_up()).token()
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        me = (await ask(client, token)).json()
        assert me["user_id"] == alice.user_id
        assert datetime.fromisoformat(me["expires_at"]).timestamp() <= time.time() + 900
        answer = await client.post(
            f"/api/{alice.user_id}/chat",
            json={"message": "say Hello."},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert (answer.status_code, answer.json()["response"]) == (200, "Hello.")


async def test_two_users_are_two(servers: dict[str, str], service_of: Serve) -> None:
    url = servers["EdDSA"]
    async with service_of(url) as client, User(url) as alice, User(url) as bob:
        await alice.sign_up()
        headers = {"Authorization": f"Bearer {await (await bob.sign_up()).token()}"}
        assert (await client.get(f"/api/{bob.user_id}/tasks", headers=headers)).status_code == 200
        assert (await client.get(f"/api/{alice.user_id}/tasks", headers=headers)).status_code == 403


async def test_a_rotation_is_followed_at_once_and_old_tokens_hold(
    servers: dict[str, str], service_of: Serve
) -> None:
    url = servers["ES256"]
    async with service_of(url) as client, User(url) as alice:
        old = await (await alice.sign_up()).token()
        assert (await ask(client, old)).status_code == 200
        await alice.control("rotate")
        new = await alice.token()
        assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
        for token in (new, old):
            assert (await ask(client, token)).status_code == 200


async def test_keys_thrown_away_take_their_tokens_with_them(
    servers: dict[str, str], service_of: Serve
) -> None:
    """Here with the next search for a new key; without one, with the next renewal (test_jwks.py)."""
    url = servers["ES512"]
    async with service_of(url) as client, User(url) as alice:
        old = await (await alice.sign_up()).token()
        assert (await ask(client, old)).status_code == 200
        await alice.control("forget-keys")
        assert (await ask(client, await alice.token())).status_code == 200
        assert (await ask(client, old)).status_code == 401


async def test_who_signs_out_gets_no_new_token_and_the_old_one_lasts(
    servers: dict[str, str], service_of: Serve
) -> None:
    url = servers["EdDSA"]
    async with service_of(url) as client, User(url) as alice:
        token = await (await alice.sign_up()).token()
        headers = {"Origin": url}
        assert (await alice.post("/api/auth/sign-out", json={}, headers=headers)).status_code == 200
        alice.cookies.clear()
        assert (await alice.get("/api/auth/token")).status_code == 401
        assert (await ask(client, token)).status_code == 200  # to its exp: docs/security.md
        expires = jwt.decode(token, options={"verify_signature": False})["exp"]
        assert expires <= time.time() + 900


async def test_an_expired_session_gets_no_new_token(servers: dict[str, str], service_of: Serve) -> None:
    url = servers["EdDSA"]
    async with service_of(url) as client, User(url) as alice:
        token = await (await alice.sign_up()).token()
        await alice.control("expire-sessions")
        assert (await alice.get("/api/auth/token")).status_code == 401
        assert (await ask(client, token)).status_code == 200
        assert (await ask(client, await (await alice.sign_in()).token())).status_code == 200


async def test_its_expired_tokens_are_refused(servers: dict[str, str], service_of: Serve) -> None:
    url = servers["expired"]
    async with service_of(url) as client, User(url) as alice:
        token = await (await alice.sign_up()).token()
        assert (
            jwt.decode(token, options={"verify_signature": False})["exp"]
            < time.time() - Patience().token_leeway
        )
        answer = await ask(client, token)
        assert (answer.status_code, answer.json()["detail"]) == (401, "the token has expired")


async def test_a_session_token_is_no_token_of_ours(servers: dict[str, str], service_of: Serve) -> None:
    url = servers["EdDSA"]
    async with service_of(url) as client, User(url) as alice:
        await alice.sign_up()
        session = alice.headers["Authorization"].removeprefix("Bearer ")
        assert (await ask(client, session)).status_code == 401


@pytest.mark.parametrize(("kind", "algorithm"), [("keyed cookies", "EdDSA"), ("secret cookies", "HS256")])
async def test_a_session_cookie_is_no_token_of_ours(
    servers: dict[str, str], service_of: Serve, kind: str, algorithm: str
) -> None:
    """Both are good JWTs, signed with the very key or secret that tokens are signed with."""
    url = servers[kind]
    async with User(url) as alice:
        await alice.sign_up()
        cookie = alice.cookies["better-auth.session_data"]
        assert jwt.get_unverified_header(cookie)["alg"] == algorithm
        for changes in (
            {"better_auth_url": url, "better_auth_secret": SECRET},
            {"better_auth_url": None, "jwks_url": f"{url}/api/auth/jwks", "better_auth_secret": SECRET},
        ):
            async with service_of(**changes) as client:
                assert (await ask(client, await alice.token())).status_code == 200
                assert (await ask(client, cookie)).status_code == 401


async def test_tokens_by_the_shared_secret_as_the_plans_have_them(
    servers: dict[str, str], service_of: Serve
) -> None:
    url = servers["EdDSA"]
    async with User(url) as alice:
        await alice.sign_up()
        plain = await alice.token("/api/auth/plain-token")
        assert jwt.get_unverified_header(plain)["alg"] == "HS256"
        async with service_of(None, better_auth_secret=SECRET) as client:
            assert (await ask(client, plain)).json()["user_id"] == alice.user_id
            assert (await ask(client, await alice.token())).status_code == 401
        async with service_of(url, better_auth_secret=SECRET) as client:
            for token in (plain, await alice.token()):
                assert (await ask(client, token)).json()["user_id"] == alice.user_id
        async with service_of(url) as client:
            assert (await ask(client, plain)).status_code == 401
