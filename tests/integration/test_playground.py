"""The playground: where it is served, how it is kept, and for whom it signs in by itself."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatapi.playground.built import assets
from chatapi.playground.sign_in import is_loopback, names_loopback
from chatapi.settings import EmbeddedDefault, Settings
from tests.support.serving import SECRET, anybody, serve, settings_for


@pytest.fixture(scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A service with the embedded default."""
    path = tmp_path_factory.mktemp("playground") / "chatapi.db"
    settings = EmbeddedDefault(
        database_url=f"sqlite:///{path}", better_auth_secret=SECRET, log_level="WARNING"
    )
    async with serve(settings) as url, anybody(url) as client:
        yield client


class TestWhereItIs:
    @pytest.mark.parametrize(
        ("environ", "served"),
        [
            ({}, True),
            ({"PLAYGROUND": "off"}, False),
            ({"DEMO_MODE": "true", "DATABASE_URL": "postgresql://db/x", "BETTER_AUTH_SECRET": SECRET}, True),
            ({"BETTER_AUTH_SECRET": SECRET}, False),
            ({"DATABASE_URL": "sqlite:///other.db"}, False),
            ({"BETTER_AUTH_URL": "https://auth.example.com", "PLAYGROUND": "on"}, True),
        ],
        ids=["nothing", "off", "demo", "own secret", "own database", "on"],
    )
    def test_by_the_settings(self, tmp_path: Path, environ: dict[str, str], *, served: bool) -> None:
        settings = Settings.from_env(environ, directory=tmp_path)
        assert settings.serves_playground == served
        assert settings.embedded == (environ.keys() <= {"PLAYGROUND"})

    async def test_elsewhere_there_is_nothing(self, empty_database_url: str) -> None:
        async with serve(settings_for(empty_database_url)) as url, anybody(url) as client:
            assert (await client.get("/")).status_code == 404
            assert (await client.post("/playground/session")).status_code == 404


class TestFiles:
    async def test_the_page_may_run_its_own_scripts_and_nothing_else(self, page: httpx.AsyncClient) -> None:
        response = await page.get("/")
        assert response.headers["content-type"].startswith("text/html")
        policy = response.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy

    async def test_the_page_is_asked_for_each_time_and_sent_if_it_is_another(
        self, page: httpx.AsyncClient
    ) -> None:
        first = await page.get("/")
        assert first.headers["cache-control"] == "no-cache"
        again = await page.get("/", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert (await page.get("/", headers={"If-None-Match": '"another"'})).content == first.content

    async def test_are_kept_for_ever_and_sent_compressed(self, page: httpx.AsyncClient) -> None:
        for name, asset in assets().items():
            for encoding in ("gzip", "identity"):
                response = await page.get(f"/playground/assets/{name}", headers={"Accept-Encoding": encoding})
                assert response.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)
                assert "immutable" in response.headers["cache-control"]
                assert response.headers["vary"] == "Accept-Encoding"
                assert response.headers["content-type"].partition(";")[0] == asset.media_type
                assert response.content == asset.plain

    @pytest.mark.parametrize("name", ["nothing.js", "..%2Findex.html", "%2E%2E%2Fsources.sha256"])
    async def test_others_are_not_there(self, page: httpx.AsyncClient, name: str) -> None:
        assert (await page.get(f"/playground/assets/{name}")).status_code == 404


class TestSignIn:
    async def test_is_by_itself_for_a_browser_on_this_machine(self, page: httpx.AsyncClient) -> None:
        origin = str(page.base_url).rstrip("/")
        session = (await page.post("/playground/session", headers={"Origin": origin})).json()
        me = await page.get("/api/me", headers={"Authorization": f"Bearer {session['token']}"})
        assert me.json()["user_id"] == session["user_id"] == "local"
        assert session["expires_at"][:16] == me.json()["expires_at"][:16]

    async def test_has_the_list_that_the_page_shows_first(self, page: httpx.AsyncClient) -> None:
        origin = {"Origin": str(page.base_url).rstrip("/")}
        token = (await page.post("/playground/session", headers=origin)).json()["token"]
        mine = {"Authorization": f"Bearer {token}"}
        await page.post("/api/local/chat", json={"message": "say Hello."}, headers=mine)
        await page.post(
            "/v1/conversations", json={"items": [{"role": "user", "content": "Hello."}]}, headers=mine
        )
        every = await page.get("/api/local/conversations", headers=mine)
        shown = await page.get("/api/local/conversations?source=app", headers=mine)
        opened = (await page.post("/playground/session", headers=origin)).json()
        assert opened["conversations"] == shown.json()
        assert [len(each.json()["items"]) for each in (every, shown)] == [2, 1]

    async def test_needs_no_database(self, tmp_path: Path) -> None:
        """The page asks for the list itself then, and says what is the matter."""
        file = f"sqlite:///{tmp_path / 'chatapi.db'}"
        empty = EmbeddedDefault(
            database_url=file, better_auth_secret=SECRET, log_level="ERROR", migrate="off"
        )
        async with serve(empty) as url, anybody(url) as client:
            session = (await client.post("/playground/session", headers={"Origin": url})).json()
        assert (session["user_id"], session["conversations"]) == ("local", None)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Host": "evil.example", "Origin": "http://evil.example"},
            {"Host": "[bad", "Origin": "http://[bad"},
            {"Forwarded": "for=192.0.2.1"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Forwarded-Proto": "https"},
            {"X-Real-IP": "127.0.0.1"},
            {"Via": "1.1 proxy"},
            {"CF-Connecting-IP": "192.0.2.1"},
        ],
        ids=lambda headers: " ".join(map(": ".join, headers.items())) or "no origin",
    )
    async def test_is_not_for_others(self, page: httpx.AsyncClient, headers: dict[str, str]) -> None:
        """Also if all else is right."""
        right = {"Origin": str(page.base_url).rstrip("/")} if headers else {}
        response = await page.post("/playground/session", headers={**right, **headers})
        assert set(response.json().values()) == {None}

    @pytest.mark.parametrize(
        ("changes", "issuer"),
        [
            ({}, None),
            ({"better_auth_url": "https://auth.example.com"}, "https://auth.example.com"),
        ],
        ids=["a secret", "Better Auth"],
    )
    async def test_is_not_with_other_settings(
        self, empty_database_url: str, changes: dict[str, Any], issuer: str | None
    ) -> None:
        settings = settings_for(empty_database_url, playground="on", **changes)
        async with serve(settings) as url, anybody(url) as client:
            session = (await client.post("/playground/session", headers={"Origin": url})).json()
            assert (session["token"], session["issuer"]) == (None, issuer)

    def test_this_machine_is_told_from_others(self) -> None:
        assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1"]))
        assert not any(map(is_loopback, ["", "192.0.2.1", "localhost.example", "::"]))
        assert all(map(names_loopback, ["localhost", "localhost:80", "127.0.0.1:8000", "[::1]:8000"]))
        assert not any(map(names_loopback, ["", "localhost.example", "127.0.0.1.example:80", "[::1"]))
