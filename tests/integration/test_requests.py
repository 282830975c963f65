"""What holds for each request, whatever its route."""

import asyncio
import json
import socket
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import uvicorn

from chatapi.app import create_app
from chatapi.cli import server_options
from chatapi.db.paging import MAX_ID
from chatapi.patience import Patience
from chatapi.web import server
from tests.support.agents import CommandedAgent
from tests.support.logs import heard
from tests.support.metrics import scrape
from tests.support.serving import SLOW_MACHINE, Client, Process, anybody, serve, settings_for, token_for


class TestRequestId:
    @pytest.mark.parametrize("sent", ["abc", "A-b_c.9", "x" * 128])
    async def test_of_the_caller_is_kept_when_sane(self, alice: Client, sent: str) -> None:
        response = await alice.get("/api/me", headers={"X-Request-ID": sent})
        assert response.headers["X-Request-ID"] == sent

    @pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>", "ü".encode()])
    async def test_that_is_not_sane_is_replaced(self, alice: Client, sent: str) -> None:
        response = await alice.get("/api/me", headers={"X-Request-ID": sent})
        assert len(response.headers.get_list("X-Request-ID")) == 1
        assert len(response.headers["X-Request-ID"]) == 32

    @pytest.mark.parametrize("path", ["/nowhere", "/api/me", "/health", "/docs", "/docs/assets/nothing"])
    async def test_is_on_every_response(self, service: str, path: str) -> None:
        async with anybody(service) as client:
            responses = [
                await client.request(method, path) for method in ("GET", "DELETE", "HEAD", "OPTIONS")
            ]
        assert all(response.headers["X-Request-ID"] for response in responses)
        assert len({response.headers["X-Request-ID"] for response in responses}) == 4


class TestCursor:
    async def test_that_holds_no_id_of_ours_is_422_in_every_list(self, alice: Client) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        lists = ("/tasks", "/keys", "/turns", f"/conversations/{conversation_id}/messages")
        for path, id_ in product(lists, (-1, MAX_ID + 1, 2**64, -(2**64))):
            cursor = urlsafe_b64encode(str(id_).encode()).decode()
            response = await alice.get(alice.mine(path), params={"cursor": cursor})
            assert response.status_code == 422, (path, id_)
            assert response.json()["errors"][0]["path"] == "cursor"


class TestMethod:
    async def test_that_is_not_there_is_405_with_allow(self, alice: Client) -> None:
        response = await alice.put(alice.mine("/tasks"), json={"title": "milk"})
        assert (response.status_code, response.json()["type"]) == (
            405,
            "urn:chatapi:problem:method-not-allowed",
        )
        assert {"GET", "HEAD", "POST"} <= set(response.headers["Allow"].split(", "))

    @pytest.mark.parametrize("path", ["/health", "/api/me", "/docs/openapi.json"])
    async def test_head_is_get_without_the_body(self, alice: Client, path: str) -> None:
        get, head = await alice.get(path), await alice.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == get.headers["content-length"]

    async def test_options_names_all_methods_of_the_path(self, alice: Client) -> None:
        for path, methods in (
            ("/tasks", "GET, HEAD, OPTIONS, POST"),
            ("/tasks/1", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
            ("/tasks/1/complete", "OPTIONS, PATCH"),
        ):
            assert (await alice.options(alice.mine(path))).headers["Allow"] == methods

    async def test_options_needs_a_token_too_but_is_no_defect(self, service: str, alice: Client) -> None:
        async with anybody(service) as nobody:
            assert (await nobody.options(alice.mine("/tasks"))).status_code == 401
        assert (await alice.options(alice.mine("/tasks"))).status_code == 204


class TestPath:
    async def test_that_is_not_served_is_404(self, alice: Client) -> None:
        for path in (
            "/nowhere",
            "/api",
            "/api/chat/tasks",
            "/api/me/tasks",
            alice.mine("/nothing"),
        ):
            response = await alice.get(path)
            assert (response.status_code, response.json()["type"]) == (404, "urn:chatapi:problem:not-found")
            assert response.json()["instance"] == path


class TestBody:
    @pytest.mark.parametrize(
        "body", [b"{", b"", b"milk", b'{"message": "x"', b"\xff", b'{"message": "\xed\xa0\x80"}']
    )
    async def test_that_is_not_json_is_422(self, alice: Client, body: bytes) -> None:
        response = await alice.post("/api/chat", content=body, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["type"]) == (
            422,
            "urn:chatapi:problem:validation-failed",
        )

    @pytest.mark.parametrize("depth", [900, 1_000, 100_000])
    @pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["array", "object"])
    async def test_that_is_nested_deeply_is_422(self, alice: Client, opening: bytes, depth: int) -> None:
        """JSON that is well formed: more than the parser follows, and just less."""
        closing = b"]" if opening == b"[" else b"}"
        body = opening * depth + b"1" + closing * depth
        with heard("") as lines:
            responses = [
                await alice.request(method, path, content=body, headers={"Content-Type": "application/json"})
                for method, path in (
                    ("POST", "/api/chat"),
                    ("POST", alice.mine("/tasks")),
                    ("PATCH", alice.mine("/tasks/1")),
                    ("POST", alice.mine("/turns/1/regenerate")),
                )
            ]
        assert [response.status_code for response in responses] == [422] * 4
        assert {response.json()["type"] for response in responses} == {
            "urn:chatapi:problem:validation-failed"
        }
        assert not lines

    @pytest.mark.parametrize(
        "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml"]
    )
    async def test_that_says_it_is_something_else_is_415(self, alice: Client, media_type: str) -> None:
        response = await alice.post(
            "/api/chat", content=b'{"message": "x"}', headers={"Content-Type": media_type}
        )
        assert (response.status_code, response.json()["type"]) == (
            415,
            "urn:chatapi:problem:unsupported-media-type",
        )

    @pytest.mark.parametrize(
        "media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json", ""]
    )
    async def test_that_is_json_or_says_nothing_is_taken(self, alice: Client, media_type: str) -> None:
        headers = {"Content-Type": media_type} if media_type else {}
        response = await alice.post("/api/chat", content=b'{"message": "say x"}', headers=headers)
        assert response.status_code == 200

    async def test_over_one_mebibyte_is_413(self, alice: Client) -> None:
        response = await alice.post("/api/chat", json={"message": "x" * 1024 * 1024})
        assert (response.status_code, response.json()["type"]) == (413, "urn:chatapi:problem:body-too-large")


class TestClient:
    @pytest.mark.parametrize("path", ["/api/chat", "/mcp"])
    async def test_that_hangs_up_while_it_sends_is_499_and_no_defect(
        self, empty_database_url: str, path: str
    ) -> None:
        settings = settings_for(empty_database_url, log_level="INFO", log_format="json")
        async with serve(settings) as url:
            with heard("chatapi.access") as lines, heard("") as all_lines:
                await hang_up(url, path)
                await until(lambda: bool(lines))
            assert [(line["route"], line["status"]) for line in map(json.loads, lines)] == [(path, 499)]
            assert not [line for line in all_lines if "defect" in line or "Error" in line]
            seen = await scrape(url)
        assert seen.get("requests_total", method="POST", route=path, status=499) == 1
        assert seen.get("defects_total") == 0

    @pytest.mark.parametrize(("changes", "seconds"), [({}, 620), ({"keep_alive_seconds": 75}, 75)])
    async def test_that_is_idle_keeps_its_connection_for_longer_than_a_balancer(
        self, empty_database_url: str, changes: dict[str, int], seconds: int
    ) -> None:
        """Closed by us, it might be closed as the balancer sends the next request on it, which is lost then."""
        settings = settings_for(empty_database_url, port=0, **changes)
        config = uvicorn.Config(
            create_app(settings, CommandedAgent()), **server_options(settings, SLOW_MACHINE)
        )
        running = server.Server(config)
        serving = asyncio.create_task(running.serve())
        await until(lambda: running.started)
        reader, writer = await asyncio.open_connection(*running.servers[0].sockets[0].getsockname())
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        [connection] = running.server_state.connections
        assert isinstance(connection, server.BoundedHttp)
        await until(lambda: connection.timeout_keep_alive_task is not None)
        assert connection.timeout_keep_alive_task is not None
        left = connection.timeout_keep_alive_task.when() - asyncio.get_running_loop().time()
        assert seconds - 60 < left <= seconds
        running.should_exit = True
        await serving  # at once: idle connections hold nobody up
        assert await reader.read() == b""
        writer.close()

    async def test_that_does_not_wait_for_the_answer_before_it_is_answered_in_its_turn(
        self, service: str
    ) -> None:
        """RFC 9112, section 9.3.2."""
        host, port = service.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        ids = ["first", "second", "third"]
        writer.write(
            b"".join(
                f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-ID: {id_}\r\n\r\n".encode() for id_ in ids
            )
        )
        for id_ in ids:
            assert f"x-request-id: {id_}\r\n".encode() in await reader.readuntil(b"}")
        writer.close()

    async def test_that_would_speak_websocket_is_answered_in_http(self, tmp_path: Path) -> None:
        """Whichever library for it is installed: RFC 9110, section 7.8, lets a server ignore `Upgrade`."""
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        async with Process(tmp_path) as service, anybody(await service.ready()) as client:
            assert (await client.get("/health/live", headers=upgrade)).status_code == 200

    async def test_that_has_just_connected_is_answered_when_the_service_stops(
        self, empty_database_url: str
    ) -> None:
        """As a proxy's connection is, whose request arrives a moment later."""
        http = partial(
            server.BoundedHttp, patience=Patience(client_opening=10)
        )  # however slow the machine is
        app = create_app(settings_for(empty_database_url), CommandedAgent())
        running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", http=http))  # type: ignore[arg-type]
        serving = asyncio.create_task(running.serve())
        await until(lambda: running.started)
        [listener] = running.servers
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        await until(lambda: bool(running.server_state.connections))
        running.should_exit = True
        await until(lambda: not listener.is_serving())
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()
        await serving

    async def test_that_the_kernel_has_taken_is_answered_when_the_service_stops(
        self, empty_database_url: str
    ) -> None:
        """They wait for the event loop, which comes to the stop first."""
        app = create_app(settings_for(empty_database_url), CommandedAgent())
        http = partial(server.BoundedHttp, patience=SLOW_MACHINE)
        config = uvicorn.Config(app, port=0, log_level="warning", http=http)  # type: ignore[arg-type]
        config.load()
        running = server.Server(config)
        running.lifespan = config.lifespan_class(config)
        await running.startup()
        address = running.servers[0].sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await running.shutdown()
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


async def hang_up(url: str, path: str) -> None:
    """Send half of a request, and break the connection once the service waits for the rest."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = {
        "Host": f"localhost:{port}",
        "Authorization": f"Bearer {token_for('alice')}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Content-Length": "1000",
    }
    fields = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f'POST {path} HTTP/1.1\r\n{fields}\r\n{{"mess'.encode())
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.transport.abort()
