"""Who may call, over HTTP."""

import time
from typing import Any
from uuid import uuid4

import jwt
import pytest

from tests.support.issuer import ALGORITHMS, SigningKey
from tests.support.serving import SECRET, Client, anybody, serve, settings_for, token_for


def signed(**claims: object) -> str:
    return jwt.encode({"sub": "alice", "exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")


LATER = time.time() + 24 * 3600  # the module is imported long before its tests run


class TestToken:
    async def test_of_an_issuer_is_refused_where_none_is_configured(self, service: str) -> None:
        """All other tokens that do not hold are in tests/support/attacks.py."""
        async with anybody(service) as client:
            for algorithm in ALGORITHMS:
                token = SigningKey(algorithm).token(sub="alice", exp=LATER)
                response = await client.get("/api/me", headers={"Authorization": f"Bearer {token}"})
                assert response.status_code == 401
                assert response.json()["detail"] == "the token's algorithm is not accepted here"

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Token x"}])
    async def test_that_is_not_there_is_401_without_an_error_code(
        self, service: str, headers: dict[str, str]
    ) -> None:
        async with anybody(service) as client:
            for path in ("/api/me", "/api/chat", "/api/alice/tasks"):
                response = await client.request(
                    "GET" if path != "/api/chat" else "POST", path, headers=headers
                )
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"

    async def test_sent_twice_is_401(self, service: str) -> None:
        async with anybody(service) as client:
            headers = [("Authorization", f"Bearer {token_for('alice')}")] * 2
            assert (await client.get("/api/me", headers=headers)).status_code == 401

    @pytest.mark.parametrize(
        ("claims", "user_id"),
        [
            ({"sub": "alice", "userId": "bob", "id": "carol"}, "alice"),
            ({"sub": None, "userId": "bob", "id": "carol"}, "bob"),
            ({"sub": None, "id": "carol"}, "carol"),
            ({"sub": 42}, "42"),
            ({"sub": None, "id": 7}, "7"),
            ({"sub": "ü/ß 1"}, "ü/ß 1"),
            ({"sub": "u" * 255}, "u" * 255),
        ],
    )
    async def test_names_its_user(self, service: str, claims: dict[str, Any], user_id: str) -> None:
        token = signed(**{name: value for name, value in claims.items() if value is not None})
        if claims["sub"] is None:
            token = jwt.encode(
                {**{k: v for k, v in claims.items() if v}, "exp": LATER}, SECRET, algorithm="HS256"
            )
        async with anybody(service) as client:
            for scheme in ("Bearer", "bearer", "BEARER"):
                response = await client.get("/api/me", headers={"Authorization": f"{scheme} {token}"})
                assert (response.status_code, response.json()["user_id"]) == (200, user_id)

    async def test_is_taken_within_a_small_leeway(self, service: str) -> None:
        async with anybody(service) as client:
            for name, seconds in (("exp", -5), ("nbf", 5)):
                claims: dict[str, Any] = {name: time.time() + seconds}
                response = await client.get(
                    "/api/me", headers={"Authorization": f"Bearer {signed(**claims)}"}
                )
                assert response.status_code == 200

    async def test_issuer_and_audience_hold_when_configured(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, jwt_issuer="https://auth", jwt_audience="chat")
        async with serve(settings) as url, anybody(url) as client:
            expected = {
                signed(iss="https://auth", aud="chat"): 200,
                signed(iss="https://auth", aud=["other", "chat"]): 200,
                signed(iss="https://auth"): 401,
                signed(iss="https://auth", aud="other"): 401,
                signed(aud="chat"): 401,
                signed(iss="https://evil", aud="chat"): 401,
            }
            for token, status in expected.items():
                response = await client.get("/api/me", headers={"Authorization": f"Bearer {token}"})
                assert response.status_code == status


class TestPath:
    async def test_of_another_user_is_403(self, alice: Client, bob: Client) -> None:
        response = await alice.get(bob.mine("/tasks"))
        assert (response.status_code, response.json()["type"]) == (403, "urn:chatapi:problem:not-your-path")

    @pytest.mark.parametrize("user_id", ["a b", "ü", "a%b", "a+b", "a?b", "me@example.org", "1"])
    async def test_is_compared_after_percent_decoding(self, service: str, user_id: str) -> None:
        user_id += uuid4().hex
        async with Client(service, user_id) as client:
            path = "/api/" + "".join(f"%{byte:02X}" for byte in user_id.encode()) + "/tasks"
            assert (await client.get(path)).status_code == 200

    async def test_a_user_without_a_path_uses_the_other_route(self, service: str) -> None:
        async with Client(service, "a/b" + uuid4().hex) as client:
            assert (await client.post("/api/chat", json={"message": "say Hello."})).status_code == 200


class TestDemoMode:
    async def test_acts_as_demo_without_a_token_and_as_nobody_else(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, demo_mode=True)
        async with serve(settings) as url, anybody(url) as client:
            assert (await client.get("/api/me")).json() == {
                "user_id": "demo",
                "expires_at": None,
                "demo": True,
            }
            assert (await client.post("/api/demo/tasks", json={"title": "milk"})).status_code == 201
            assert (await client.get("/api/alice/tasks")).status_code == 403
            bad = await client.get("/api/me", headers={"Authorization": "Bearer x"})
            assert bad.status_code == 401
            good = await client.get("/api/me", headers={"Authorization": f"Bearer {token_for('alice')}"})
            assert (good.json()["user_id"], good.json()["demo"]) == ("alice", False)

    async def test_is_off_by_default(self, service: str) -> None:
        async with anybody(service) as client:
            assert (await client.get("/api/demo/tasks")).status_code == 401


async def test_me_tells_when_the_token_ends(alice: Client) -> None:
    me = (await alice.get("/api/me")).json()
    assert me["user_id"] == alice.user_id
    assert me["demo"] is False
    assert me["expires_at"].endswith("Z")
