"""Turns as streams: what is sent, when it is sent, and what becomes of a turn whose stream is not read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chatapi.app import app_of
from chatapi.auth.tokens import TokenVerifier
from chatapi.patience import Patience
from chatapi.services import Services
from chatapi.web import server
from tests.support.agents import CommandedAgent, Gate
from tests.support.databases import unread_metrics
from tests.support.serving import REPOSITORY, Client, serve, serving, settings_for, token_for
from tests.support.sse import STREAM, answering, chunks_of, resumed, streamed, text_of, types_of


def gate() -> tuple[str, Gate]:
    name = uuid4().hex
    return name, CommandedAgent.gates[name]


class TestStream:
    async def test_tells_the_turn_from_start_to_finish(self, alice: Client) -> None:
        chunks = await streamed(alice, 'think Hm.\nsay Right: \ncall add_task {"title": "milk"}\nsay Bye.')
        assert types_of(chunks) == [
            *("start", "start-step"),
            *("reasoning-start", "reasoning-delta", "reasoning-end"),
            *("text-start", "text-delta", "text-end"),
            *("tool-input-start", "tool-input-available", "tool-output-available", "finish-step"),
            *("start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"),
        ]
        first, *_, last = chunks
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        question, answer = await alice.messages(conversation["id"])
        assert first["messageMetadata"] == {
            "conversation_id": conversation["id"],
            "turn_id": question["turn_id"],
        }
        assert last["messageMetadata"] == {
            "message_id": answer["id"],
            "usage": {"input_tokens": 0, "output_tokens": 1},
        }
        assert text_of(chunks) == answer["content"] == "Right: add_task: done. Bye."
        (called,) = (chunk for chunk in chunks if chunk["type"] == "tool-input-available")
        (returned,) = (chunk for chunk in chunks if chunk["type"] == "tool-output-available")
        (stored,) = answer["tool_calls"]
        assert (called["toolName"], called["input"]) == (stored["name"], stored["arguments"])
        assert called["toolCallId"] == returned["toolCallId"] == stored["id"]
        assert returned["output"] == stored["result"]

    async def test_has_a_step_for_each_answer_of_the_model(self, alice: Client) -> None:
        calls = ("tool-input-start", "tool-input-available", "tool-output-available")
        words = ("text-start", "text-delta", "text-end")
        chunks = await streamed(
            alice,
            "step\nthink Hm.\nmute list_tasks {}\nmute list_tasks {}\nstep\nmute list_tasks {}\n"
            "step\nstep\nmute list_tasks {}\nmute list_tasks {}\nstep\nsay One.\nstep\nsay Two.\nstep",
        )
        assert types_of(chunks) == [
            "start",
            *("start-step", "reasoning-start", "reasoning-delta", "reasoning-end", *calls * 2, "finish-step"),
            *("start-step", *calls, "finish-step"),
            *("start-step", *calls * 2, "finish-step"),
            *("start-step", *words, "finish-step"),
            *("start-step", *words, "finish-step"),
            "finish",
        ]

    async def test_of_calls_at_once_has_them_in_one_step(self, alice: Client) -> None:
        """An agent that says nothing of steps has one begin with the first text after a call."""
        chunks = await streamed(alice, "mute list_tasks {}\nmute list_tasks {}\nsay Done.")
        assert types_of(chunks).count("start-step") == 2

    async def test_of_a_call_in_error_says_so_and_goes_on(self, alice: Client) -> None:
        chunks = await streamed(alice, 'call delete_task {"task_id": 999999999}')
        (failed,) = (chunk for chunk in chunks if chunk["type"] == "tool-output-error")
        assert "999999999" in failed["errorText"]
        assert chunks[-1]["type"] == "finish"

    @pytest.mark.parametrize("arguments", [r'{"x": "\ud800"}', r'{"\ud800": 1}', r'{"\u0000": 1}'])
    async def test_of_a_call_with_what_utf_8_or_postgresql_cannot_hold_is_whole(
        self, alice: Client, arguments: str
    ) -> None:
        chunks = await streamed(alice, f"call list_tasks {arguments}\nsay Well.")
        assert types_of(chunks)[-1] == "finish"
        (call,) = [chunk for chunk in chunks if chunk["type"] == "tool-output-error"]
        assert "unknown field" in call["errorText"]
        assert text_of(chunks).endswith("Well.")

    async def test_passes_on_what_is_said_while_the_rest_is_not(self, alice: Client) -> None:
        name, waits = gate()
        async with alice.stream(
            "POST", alice.mine("/chat"), json={"message": f"say Hello\ngate {name}\nsay !"}, headers=STREAM
        ) as response:
            chunks = chunks_of(response)
            assert (await anext(chunks))["type"] == "start"
            seen = [await anext(chunks) for _ in range(3)]
            assert seen[-1] == {"type": "text-delta", "id": "1", "delta": "Hello"}
            assert not waits.opened.is_set()
            waits.opened.set()
            rest = [chunk async for chunk in chunks]
            assert text_of([*seen, *rest]) == "Hello!"

    async def test_starts_before_anything_is_said(self, alice: Client) -> None:
        name, waits = gate()
        async with alice.stream(
            "POST", alice.mine("/chat"), json={"message": f"gate {name}\nsay Hi."}, headers=STREAM
        ) as response:
            chunks = chunks_of(response)
            assert (await anext(chunks))["type"] == "start"
            waits.opened.set()
            assert [chunk async for chunk in chunks][-1]["type"] == "finish"

    @pytest.mark.parametrize(
        "accept", [None, "*/*", "application/json", "application/json, text/event-stream;q=0.5", "text/html"]
    )
    async def test_is_given_only_to_those_who_prefer_it(self, alice: Client, accept: str | None) -> None:
        response = await alice.chat("say Hi.", headers={} if accept is None else {"Accept": accept})
        assert response.json()["response"] == "Hi."

    async def test_works_without_the_user_in_the_path(self, alice: Client) -> None:
        async with alice.stream("POST", "/api/chat", json={"message": "say Hi."}, headers=STREAM) as response:
            chunks = [chunk async for chunk in chunks_of(response)]
        assert text_of(chunks) == "Hi."
        ids = chunks[0]["messageMetadata"]
        response = await alice.get(
            f"/api/chat/{ids['conversation_id']}/stream", params={"turn_id": ids["turn_id"]}
        )
        assert text_of([chunk async for chunk in chunks_of(response)]) == "Hi."

    @pytest.mark.parametrize(
        ("body", "status"),
        [({"message": "hi", "conversation_id": 999_999_999}, 404), ({"message": ""}, 422), ({}, 422)],
    )
    async def test_that_cannot_begin_is_an_http_error(
        self, alice: Client, body: dict[str, object], status: int
    ) -> None:
        response = await alice.post(alice.mine("/chat"), json=body, headers=STREAM)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"

    async def test_without_a_good_token_is_an_http_error(self, alice: Client) -> None:
        alice.headers["Authorization"] = "Bearer x"
        response = await alice.chat("say Hi.", headers=STREAM)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"

    async def test_over_the_limit_is_an_http_error(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, rate_limit_chat="1/minute")
        async with serve(settings) as url, Client(url, "alice") as alice:
            await streamed(alice, "say Hi.")
            response = await alice.chat("say Hi.", headers=STREAM)
            assert response.status_code == 429
            assert response.headers["content-type"] == "application/problem+json"

    async def test_that_fails_ends_with_the_problem(self, alice: Client) -> None:
        chunks = await streamed(alice, "say Wel\nfail")
        assert types_of(chunks)[-4:] == ["text-end", "finish-step", "message-metadata", "error"]
        assert chunks[-1]["errorText"] == "The model is having a bad day."
        assert chunks[-1]["problem"] == {
            "type": "urn:chatapi:problem:model-failed",
            "title": "The model failed",
            "status": 502,
            "detail": "The model is having a bad day.",
            **chunks[0]["messageMetadata"],
        }

    async def test_never_shows_what_an_agent_crashed_with(self, alice: Client) -> None:
        chunks = await streamed(alice, "crash")
        assert chunks[-1]["problem"]["type"] == "urn:chatapi:problem:model-failed"
        assert "secret-of-the-agent" not in json.dumps(chunks)

    async def test_in_silence_has_heartbeats(self, empty_database_url: str) -> None:
        assert Patience().stream_heartbeat <= 15  # as docs/frontend.md promises
        name, waits = gate()
        async with (
            serve(settings_for(empty_database_url), patience=Patience(stream_heartbeat=0.01)) as url,
            Client(url, "alice") as alice,
            alice.stream(
                "POST", alice.mine("/chat"), json={"message": f"gate {name}\nsay Hi."}, headers=STREAM
            ) as response,
        ):
            lines = response.aiter_lines()
            beats = 0
            while beats < 3:
                beats += await anext(lines) == ": still here"
            waits.opened.set()
            assert [line async for line in lines][-2:] == ["data: [DONE]", ""]

    async def test_is_not_cut_by_its_token_running_out(
        self, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It runs out when the stream has begun, however long that takes."""
        settings = settings_for(empty_database_url)
        services = Services.of(settings, Patience(token_leeway=3_600), CommandedAgent())
        strict = TokenVerifier(settings, Patience(token_leeway=0), unread_metrics())
        name, waits = gate()
        async with (
            serving(app_of(services)) as url,
            Client(url, "alice") as alice,
            token_of_a_second(alice, strict).stream(
                "POST", alice.mine("/chat"), json={"message": f"gate {name}\nsay Hi."}, headers=STREAM
            ) as response,
        ):
            chunks = chunks_of(response)
            await anext(chunks)
            monkeypatch.setattr(services.verifier, "verify", strict.verify)
            while (await alice.get("/api/me")).status_code != 401:  # noqa: ASYNC110 - time is what it waits for
                await asyncio.sleep(0.1)
            waits.opened.set()
            assert text_of([chunk async for chunk in chunks]) == "Hi."


def token_of_a_second(client: Client, verifier: TokenVerifier) -> Client:
    client.headers["Authorization"] = f"Bearer {verifier.mint(client.user_id, timedelta(seconds=1))}"
    return client


class TestHangUp:
    async def test_does_not_end_the_turn(self, alice: Client) -> None:
        name, waits = gate()
        async with alice.stream(
            "POST", alice.mine("/chat"), json={"message": f"say Hel\ngate {name}\nsay lo."}, headers=STREAM
        ) as response:
            ids = (await anext(chunks_of(response)))["messageMetadata"]
        await waits.reached.wait()
        waits.opened.set()
        assert text_of(await resumed(alice, **ids)) == "Hello."
        _, answer = await alice.messages(ids["conversation_id"])
        assert (answer["content"], answer["status"]) == ("Hello.", "completed")

    @pytest.mark.slow
    async def test_of_one_that_never_reads_is_the_servers_doing_after_a_while(
        self, empty_database_url: str
    ) -> None:
        body = json.dumps({"message": "flood 2000"}).encode()
        async with (
            serve(settings_for(empty_database_url), patience=Patience(client_stall=0.2)) as url,
            Client(url, "alice") as alice,
            idle_reader(
                alice, "POST /api/chat", body, "Accept: text/event-stream", "Content-Type: application/json"
            ) as reader,
        ):
            while True:
                items = (await alice.get(alice.mine("/conversations"))).json()["items"]
                if items and len(messages := await alice.messages(items[0]["id"])) == 2:
                    break
                await asyncio.sleep(0.5)
            assert len(messages[1]["content"]) == 10_000_000
            transport_of(reader).resume_reading()
            with suppress(ConnectionResetError):
                assert not (await reader.read()).endswith(b"0\r\n\r\n")  # as a whole chunked body does


@pytest.mark.slow
class TestSlowReaders:
    """Of answers that are more than all buffers on the way hold."""

    async def test_of_a_stream_have_little_of_it_kept_for_them(
        self, alice: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However much of it there is already: here, all of it, as one piece of text."""
        paused = waiting(monkeypatch)
        ids = (await streamed(alice, "flood 2000"))[0]["messageMetadata"]
        path = f"GET /api/chat/{ids['conversation_id']}/stream?turn_id={ids['turn_id']}"
        async with AsyncExitStack() as readers:
            for _ in range(3):
                await readers.enter_async_context(idle_reader(alice, path))
            while len(paused) < 3:  # noqa: ASYNC110 - until the buffers on the way are full
                await asyncio.sleep(0.01)
            kept = [protocol.transport.get_write_buffer_size() for protocol in paused]
            assert max(kept) < 128 * 1024

    async def test_who_take_it_steadily_are_not_hung_up_on(
        self, alice: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Here the looks at them are the test's, so that no clock decides; the answer is one piece, and no stream."""
        paused = waiting(monkeypatch)
        conversation_id = (await streamed(alice, "flood 2000"))[0]["messageMetadata"]["conversation_id"]
        async with idle_reader(
            alice, f"GET {alice.mine(f'/conversations/{conversation_id}/messages')}"
        ) as reader:
            while not paused:  # noqa: ASYNC110 - until the buffers on the way are full
                await asyncio.sleep(0.01)
            (protocol,) = paused
            for _ in range(3):
                before = protocol.transport.get_write_buffer_size()
                transport_of(reader).resume_reading()
                while protocol.transport.get_write_buffer_size() > before - server.STALL_BYTES:
                    await reader.read(65_536)
                transport_of(reader).pause_reading()
                protocol._look_for_client(before)
                assert not protocol.transport.is_closing()
            protocol._look_for_client(protocol.transport.get_write_buffer_size())
            assert protocol.transport.is_closing()


def waiting(monkeypatch: pytest.MonkeyPatch) -> list[server.BoundedHttp]:
    """The connections whose clients do not take what is sent, as they come to that."""
    paused: list[server.BoundedHttp] = []
    pause = server.BoundedHttp.pause_writing

    def noticed(protocol: server.BoundedHttp) -> None:
        paused.append(protocol)
        pause(protocol)

    monkeypatch.setattr(server.BoundedHttp, "pause_writing", noticed)
    return paused


@asynccontextmanager
async def idle_reader(
    client: Client, request: str, body: bytes = b"", *headers: str
) -> AsyncIterator[asyncio.StreamReader]:
    """Sends the request and does not read the answer until its transport is told to resume."""
    url = httpx.URL(client.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1_024)
    transport_of(reader).pause_reading()
    authorization = f"Authorization: {client.headers['Authorization']}"
    head = (f"{request} HTTP/1.1", "Host: x", authorization, f"Content-Length: {len(body)}", *headers)
    writer.write("\r\n".join((*head, "\r\n")).encode() + body)
    try:
        yield reader
    finally:
        writer.transport.abort()


def transport_of(reader: asyncio.StreamReader) -> asyncio.ReadTransport:
    transport: asyncio.ReadTransport = reader._transport  # type: ignore[attr-defined]
    return transport


class TestReaderInPython:
    """`stream.py` of docs/frontend.md, which promises to raise what ended the answer instead."""

    @pytest.fixture
    def answer(self) -> Callable[[str, str, str], Iterator[str]]:
        page = (REPOSITORY / "docs" / "frontend.md").read_text()
        program = page.partition("```python\n# stream.py\n")[2].partition("```")[0]
        names: dict[str, Any] = {}
        exec(program, names)
        read: Callable[[str, str, str], Iterator[str]] = names["answer"]
        return read

    @pytest.mark.parametrize(
        ("message", "end"), [("say Hel\nfail", "The model is having a bad day."), (" ", "message: ")]
    )
    async def test_raises_the_problem(self, alice: Client, answer: Any, message: str, end: str) -> None:
        with pytest.raises(RuntimeError, match=end):
            await asyncio.to_thread(list, answer(url_of(alice), token_for(alice.user_id), message))

    async def test_raises_when_the_turn_is_cancelled(self, alice: Client, answer: Any) -> None:
        name, waits = gate()
        pieces = answer(url_of(alice), token_for(alice.user_id), f"say Hel\ngate {name}")
        assert await asyncio.to_thread(next, pieces) == "Hel"
        await waits.reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        (running,) = await alice.messages(conversation["id"])
        await alice.post(alice.mine(f"/turns/{running['turn_id']}/cancel"))
        with pytest.raises(RuntimeError, match="cancelled"):
            await asyncio.to_thread(list, pieces)

    async def test_raises_when_the_stream_is_cut(self, answer: Any) -> None:
        async with answering() as url:
            with pytest.raises(RuntimeError, match="was cut"):
                await asyncio.to_thread(list, answer(url, "token", "say Hello."))


def url_of(client: Client) -> str:
    return str(client.base_url).rstrip("/")


class TestCancel:
    async def test_ends_the_stream_with_abort(self, alice: Client) -> None:
        name, waits = gate()
        async with alice.stream(
            "POST", alice.mine("/chat"), json={"message": f"say Hel\ngate {name}\nsay lo."}, headers=STREAM
        ) as response:
            chunks = chunks_of(response)
            ids = (await anext(chunks))["messageMetadata"]
            await waits.reached.wait()
            cancelled = await alice.post(alice.mine(f"/turns/{ids['turn_id']}/cancel"))
            assert cancelled.status_code == 202
            rest = [chunk async for chunk in chunks]
        assert types_of(rest)[-1] == "abort"
        assert text_of(rest) == "Hel"
        again = await resumed(alice, **ids)
        assert (types_of(again)[-1], text_of(again)) == ("abort", "Hel")


class TestKey:
    async def test_of_a_turn_answered_before_streams_it_again(self, alice: Client) -> None:
        key = {"Idempotency-Key": uuid4().hex}
        first = await streamed(alice, 'call add_task {"title": "milk"}\nsay Hi.', headers=key)
        again = await streamed(alice, 'call add_task {"title": "milk"}\nsay Hi.', headers=key)
        assert text_of(again) == text_of(first)
        assert (again[0], again[-1]) == (first[0], first[-1])
        response = await alice.chat('call add_task {"title": "milk"}\nsay Hi.', headers=key)
        assert response.headers["Idempotent-Replayed"] == "true"
        assert response.json()["response"] == text_of(first)

    async def test_of_a_running_turn_joins_it(self, alice: Client) -> None:
        name, waits = gate()
        key = {"Idempotency-Key": uuid4().hex}
        message = f'call add_task {{"title": "milk"}}\ngate {name}\nsay Bye.'
        first = asyncio.create_task(streamed(alice, message, headers=key))
        await waits.reached.wait()
        async with alice.stream(
            "POST", alice.mine("/chat"), json={"message": message}, headers={**STREAM, **key}
        ) as response:
            chunks = chunks_of(response)
            joined = [await anext(chunks)]
            waits.opened.set()
            joined += [chunk async for chunk in chunks]
        assert joined == await first
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1

    async def test_of_another_request_is_refused(self, alice: Client) -> None:
        key = {"Idempotency-Key": uuid4().hex}
        await streamed(alice, "say 1", headers=key)
        response = await alice.chat("say 2", headers={**STREAM, **key})
        assert response.status_code == 422
