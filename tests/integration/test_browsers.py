"""What browsers are told: CORS, security headers; and the bounds of a request's head."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.agents import CommandedAgent
from tests.support.serving import Client, anybody, serve, settings_for, token_for

SITE = "https://app.example.com"
EXPOSED = {
    "X-Request-ID",
    "Idempotent-Replayed",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Location",
    *("Content-Disposition", "Content-Range", "ETag"),
    *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    "x-should-retry",
    "X-Conversation-Id",
}


@pytest.fixture
async def open_to_site(tmp_path: Path) -> AsyncIterator[Client]:
    """Alice's client on a service that lets one site in, used as that site's page would."""
    settings = settings_for(
        f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}",
        cors_origins=f"{SITE},http://localhost:3000",
        rate_limit="6/hour",
        rate_limit_chat="off",
    )
    async with serve(settings) as url, Client(url, "alice") as alice:
        alice.headers["Origin"] = SITE
        yield alice


class TestCors:
    async def test_every_answer_may_be_read_by_the_site_errors_too(
        self, open_to_site: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("secret")

        alice = open_to_site
        nobody = {"Authorization": ""}
        seen = [
            await alice.get("/api/me", headers=nobody),
            await alice.post(alice.mine("/tasks"), json={"title": "milk"}),
            await alice.get("/api/bob/tasks"),
            await alice.get(alice.mine("/tasks/99")),
            await alice.get("/nowhere"),
            await alice.get("/v1/nowhere"),
            await alice.put(alice.mine("/tasks"), json={}),
            await alice.get(alice.mine("/tasks?limit=0")),
            await alice.chat("crash"),
        ]
        monkeypatch.setattr(CommandedAgent, "model", property(broken))
        seen.append(await alice.chat("say Hello."))
        seen += [await alice.get(path) for path in ("/api/me", "/api/me", "/api/me", "/v1/models")]
        assert [response.status_code for response in seen] == [
            *(401, 201, 403, 404, 404, 404, 405, 422, 502, 500),
            *(200, 200, 429, 429),
        ]
        for response in seen:
            assert response.headers["Access-Control-Allow-Origin"] == SITE
            assert set(response.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED
            assert response.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in response.headers

    async def test_a_preflight_needs_no_token_and_counts_for_nobody(self, open_to_site: Client) -> None:
        async with anybody(open_to_site.base_url) as browser:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                for _ in range(3):
                    response = await browser.options(
                        "/api/alice/tasks/1",
                        headers={
                            "Origin": SITE,
                            "Access-Control-Request-Method": method,
                            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-own",
                        },
                    )
                    assert response.status_code == 204
                    assert response.headers["Access-Control-Allow-Origin"] == SITE
                    assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
                    allowed = set(response.headers["Access-Control-Allow-Headers"].lower().split(", "))
                    assert {"authorization", "content-type", "idempotency-key", "x-own"} <= allowed
                    assert "RateLimit" not in response.headers
        assert (await open_to_site.get("/api/me")).headers["RateLimit"].startswith('"default";r=5;')

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "https://appXexample.com",
            "null",
        ],
    )
    async def test_another_site_may_read_nothing(self, open_to_site: Client, origin: str) -> None:
        response = await open_to_site.get("/api/me", headers={"Origin": origin})
        assert response.status_code == 200  # it is the browser that keeps it from the page
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"
        preflight = await open_to_site.options(
            "/api/me", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}
        )
        assert preflight.status_code == 400
        assert "Access-Control-Allow-Origin" not in preflight.headers

    async def test_a_star_lets_all_sites_in_without_credentials(self, tmp_path: Path) -> None:
        settings = settings_for(f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}", cors_origins="*")
        async with serve(settings) as url, Client(url, "alice") as alice:
            for cookie in ({}, {"Cookie": "a=b"}):
                response = await alice.get("/api/me", headers={"Origin": SITE, **cookie})
                assert response.headers["Access-Control-Allow-Origin"] in {"*", SITE}
                assert "Access-Control-Allow-Credentials" not in response.headers

    async def test_no_site_is_let_in_by_default(self, alice: Client) -> None:
        response = await alice.get("/api/me", headers={"Origin": SITE})
        assert not [name for name in response.headers if name.startswith("access-control-")]


class TestSecurityHeaders:
    @pytest.mark.parametrize(
        "path",
        ["/api/me", "/nowhere", "/health", "/docs", "/docs/nothing", "/docs/openapi.json", "/api/x/tasks"],
    )
    async def test_are_on_every_response(self, alice: Client, path: str) -> None:
        for method in ("GET", "DELETE", "HEAD", "OPTIONS"):
            headers = (await alice.request(method, path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert "script-src 'unsafe-inline'" not in headers["Content-Security-Policy"]
            assert headers["Cache-Control"] == "no-store"

    async def test_a_page_may_run_scripts_of_this_host_alone(self, alice: Client) -> None:
        page = await alice.get("/docs")
        assert "script-src 'self';" in page.headers["Content-Security-Policy"]
        assert "<script>" not in page.text
        assert "onload" not in page.text
        other = await alice.get("/api/me")
        assert other.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"

    async def test_https_is_asked_for_only_when_configured_and_over_https(self, tmp_path: Path) -> None:
        for seconds, scheme, expected in (
            (0, "https", None),
            (31_536_000, "http", None),
            (31_536_000, "https", "max-age=31536000"),
        ):
            settings = settings_for(f"sqlite+aiosqlite:///{tmp_path / 'chatapi.db'}", hsts_max_age=seconds)
            async with serve(settings) as url, anybody(url) as client:
                response = await client.get("/health/live", headers={"X-Forwarded-Proto": scheme})
                assert response.headers.get("Strict-Transport-Security") == expected


class TestHead:
    """The request line and the headers."""

    async def test_up_to_the_bound_is_read(self, alice: Client) -> None:
        response = await alice.get("/api/me", headers={"X-Long": "x" * 60_000})
        assert response.status_code == 200
        assert (await alice.get("/health", params={"x": "y" * 60_000})).status_code == 200

    @pytest.mark.parametrize("size", [66_000, 300_000])
    async def test_over_the_bound_is_431(self, service: str, size: int) -> None:
        for head in (
            f"GET /health HTTP/1.1\r\nX-Long: {'x' * size}\r\n\r\n",
            f"GET /health?{'x' * size} HTTP/1.1\r\n\r\n",
            "GET /health HTTP/1.1\r\n" + "X-Many: x\r\n" * (size // 7) + "\r\n",
        ):
            answer = await send(service, head.encode())
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b'"type":"urn:chatapi:problem:head-too-large"' in answer

    async def test_without_an_end_is_not_read_for_ever(self, service: str) -> None:
        """What is sent after the refusal is neither kept nor parsed."""
        answer = await send(service, b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 4 * 1024 * 1024)
        assert answer.startswith(b"HTTP/1.1 431 ")
        async with anybody(service) as client:
            assert (await client.get("/health")).status_code == 200

    async def test_that_is_no_http_is_400(self, service: str) -> None:
        assert (await send(service, b"milk\r\n\r\n")).startswith(b"HTTP/1.1 400 ")

    async def test_with_a_token_over_its_bound_is_401_or_431(self, service: str) -> None:
        async with anybody(service) as client:
            for size, status in ((17_000, 401), (134_000, 431)):
                response = await client.get("/api/me", headers={"Authorization": "Bearer " + "x" * size})
                assert response.status_code == status

    async def test_of_a_request_with_a_large_body_is_not_the_body(self, service: str) -> None:
        body = b'{"message": "say ' + b"x" * 9_000 + b'"' + b" " * 900_000 + b"}"
        head = (
            f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_for('alice')}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        assert (await send(service, head.encode() + body)).startswith(b"HTTP/1.1 200 ")


async def send(service: str, data: bytes) -> bytes:
    """Send bytes as they are; all that comes back until the server closes."""
    url = httpx.URL(service)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()
