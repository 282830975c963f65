"""Traces, as a collector receives them: one span a turn, with its statements, its model and its tools."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from chatapi.patience import Patience
from chatapi.settings import SettingsError
from chatapi.tracing import tracing_from
from tests.support.agents import CommandedAgent
from tests.support.logs import heard
from tests.support.otlp import Collector, Span, collecting
from tests.support.postgres import Postgres
from tests.support.proxy import proxy
from tests.support.serving import SLOW_MACHINE, Client, anybody, execute, serve, settings_for

CANARY = "canary-9b1c"
CHAT = "POST /api/{user_id}/chat"
STATEMENTS = {"BEGIN", "SET", "SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}

Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
def traced(collector: Collector, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A service that sends its traces to the collector; all are there when the block ends."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)

    @asynccontextmanager
    async def served(patience: Patience = SLOW_MACHINE, **changes: object) -> AsyncIterator[Client]:
        settings = settings_for(empty_database_url, **changes)
        async with serve(settings, patience=patience) as url, Client(url, "alice") as alice:
            yield alice

    return served


def children(collector: Collector, parent: Span) -> list[Span]:
    return [span for span in collector.spans if span.parent_id == parent.span_id]


class TestATurn:
    async def test_is_one_span_with_its_model_its_tools_and_their_statements(
        self, collector: Collector, traced: Serve
    ) -> None:
        async with traced() as alice:
            answer = await alice.said(f'say {CANARY}\ncall add_task {{"title": "{CANARY}"}}')
        request, turn = collector.named(CHAT), collector.named("turn")
        assert (request.kind, request.parent_id, request.service) == ("SERVER", "", "chatapi")
        assert request.attributes["http.route"] == "/api/{user_id}/chat"
        assert request.attributes["http.request.method"] == "POST"
        assert request.attributes["http.response.status_code"] == 200
        assert turn.parent_id == request.span_id
        assert turn.attributes["chatapi.turn.id"] == answer["turn_id"]
        assert not any(span.failed for span in collector.spans)

        chat, tool = collector.named("chat commanded"), collector.named("execute_tool add_task")
        assert {chat.parent_id, tool.parent_id} == {turn.span_id}
        assert chat.kind == "CLIENT"
        assert chat.attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "commanded",
            "gen_ai.request.model": "commanded",
            "gen_ai.response.model": "commanded",
            "gen_ai.conversation.id": str(answer["conversation_id"]),
            "gen_ai.usage.input_tokens": 0,
            "gen_ai.usage.output_tokens": 1,
        }
        assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
        assert tool.attributes["gen_ai.tool.name"] == "add_task"

        of_turn = [span for span in children(collector, turn) if span not in (chat, tool)]
        of_tool = children(collector, tool)
        assert len(of_turn) >= 4  # begin and finish
        assert of_tool
        for statement in [*of_turn, *of_tool]:
            assert statement.name in STATEMENTS
            assert statement.kind == "CLIENT"
            assert statement.attributes["db.system.name"] in {"postgresql", "sqlite"}
            assert statement.attributes["db.query.text"].upper().startswith(statement.name)
        assert any("INSERT INTO tasks" in span.attributes["db.query.text"] for span in of_tool)
        assert not any(CANARY.encode() in body for body in collector.bodies)

    async def test_that_fails_is_marked_by_the_kind_of_its_error(
        self, collector: Collector, traced: Serve
    ) -> None:
        async with traced() as alice:
            await alice.chat(f"crash {CANARY}")
        request, turn, chat = (collector.named(name) for name in (CHAT, "turn", "chat commanded"))
        assert (turn.failed, turn.attributes["error.type"]) == (True, "model-failed")
        assert (chat.failed, chat.attributes["error.type"]) == (True, "RuntimeError")
        assert (request.failed, request.attributes["http.response.status_code"]) == (True, 502)
        assert [span.events for span in collector.spans] == [0] * len(collector.spans)
        assert not any(CANARY.encode() in body for body in collector.bodies)

    async def test_has_no_span_a_piece_of_its_answer(self, collector: Collector, traced: Serve) -> None:
        async with traced() as alice:
            await alice.said("say x")
            await alice.said("\n".join(["say x"] * 200))
        one, other = (children(collector, span) for span in collector.spans if span.name == "turn")
        assert len(other) <= len(one)  # the first also took the process's lease

    async def test_tells_what_a_tool_could_not_do(self, collector: Collector, traced: Serve) -> None:
        async with traced() as alice:
            await alice.said(f'call complete_task {{"task_id": 77}}\ncall {CANARY} {{}}')
        assert collector.named("execute_tool complete_task").attributes["error.type"] == "tool-error"
        assert collector.named("execute_tool unknown").attributes["error.type"] == "tool-error"

    async def test_that_loses_its_conversation_has_the_failure_at_the_tool_too(
        self, collector: Collector, traced: Serve, empty_database_url: str
    ) -> None:
        async with traced(
            replace(SLOW_MACHINE, watch=60)
        ) as alice:  # or the look for lost turns might end it before its call
            conversation_id = (await alice.said("say x"))["conversation_id"]
            gate = CommandedAgent.gates[collector.url]
            commands = f"gate {collector.url}\ncall list_tasks {{}}"
            turn = asyncio.create_task(alice.chat(commands, conversation_id))
            await gate.reached.wait()
            await execute(empty_database_url, "DELETE FROM conversations")
            gate.opened.set()
            assert (await turn).status_code == 409
        tool = collector.named("execute_tool list_tasks")
        assert (tool.failed, tool.attributes["error.type"]) == (True, "turn-cancelled")


class TestARequest:
    async def test_goes_on_with_the_trace_of_its_caller_and_names_it_in_the_log(
        self, collector: Collector, traced: Serve
    ) -> None:
        trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        async with traced(log_level="INFO", log_format="json") as alice:
            with heard("chatapi.access") as messages:
                await alice.get("/api/me", headers={"traceparent": f"00-{trace_id}-{parent_id}-01"})
        request = collector.named("GET /api/me")
        assert (request.trace_id, request.parent_id) == (trace_id, parent_id)
        assert json.loads(messages[0])["trace_id"] == trace_id

    async def test_whose_statement_fails_has_the_failure_at_the_statement(
        self, collector: Collector, traced: Serve, empty_database_url: str
    ) -> None:
        async with traced() as alice:
            await execute(empty_database_url, "DROP TABLE tasks")
            assert (await alice.get(alice.mine("/tasks"))).status_code == 500
        request = collector.named("GET /api/{user_id}/tasks")
        (statement,) = (span for span in children(collector, request) if span.failed)
        assert "FROM tasks" in statement.attributes["db.query.text"]
        assert statement.attributes["error.type"]

    async def test_that_breaks_off_is_failed_without_the_error_s_text(
        self, collector: Collector, traced: Serve, empty_database_url: str
    ) -> None:
        """An export breaks off when its table goes: its status was 200, so no error is sent, and the exception goes on."""
        async with traced() as alice:
            await execute(empty_database_url, "DROP TABLE tasks")
            with pytest.raises(httpx.RemoteProtocolError):
                await alice.get(alice.mine("/export"))
        request = collector.named("GET /api/{user_id}/export")
        assert (request.failed, request.events) == (True, 0)
        assert request.attributes["error.type"]
        assert not any(b"exception.message" in body or b"no such table" in body for body in collector.bodies)

    async def test_has_no_statement_where_there_is_no_connection(
        self, collector: Collector, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        name = await asyncio.to_thread(postgres.new_database)
        async with proxy(postgres.port) as between:
            settings = settings_for(postgres.url(name, port=between.port))
            async with serve(settings) as url, Client(url, "alice") as alice:
                between.cut()
                assert (await alice.get(alice.mine("/tasks"))).status_code == 503
        request = collector.named("GET /api/{user_id}/tasks")
        assert request.failed
        assert children(collector, request) == []

    async def test_is_the_only_reason_for_a_span(self, collector: Collector, traced: Serve) -> None:
        """Heartbeats and migrations make no span."""
        async with traced():
            await asyncio.sleep(0)
        assert collector.spans == []

    async def test_has_none_that_nobody_asked_for(self, empty_database_url: str) -> None:
        async with serve(settings_for(empty_database_url, log_level="INFO")) as url:
            with heard("chatapi.access") as messages:
                async with anybody(url) as nobody:
                    await nobody.get("/health")
        assert "trace_id" not in messages[0]


URL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


class TestConfiguration:
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
            {**URL, "OTEL_SDK_DISABLED": "true"},
            {**URL, "OTEL_TRACES_EXPORTER": "none"},
        ],
    )
    def test_without_an_endpoint_or_disabled_there_is_none(self, environ: dict[str, str]) -> None:
        assert not tracing_from(environ).on

    def test_of_another_protocol_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf"):
            tracing_from({**URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    def test_without_the_extra_says_how_to_install_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        with pytest.raises(
            SettingsError, match=r'OTEL_EXPORTER_OTLP_ENDPOINT: needs: pip install "chatapi\[otel\]"'
        ):
            tracing_from(URL)


async def test_a_collector_that_does_not_answer_does_not_hold_up_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[asyncio.StreamWriter] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    settings = settings_for(f"sqlite:///{tmp_path / 'chatapi.db'}")
    async with serve(settings, patience=Patience(traces=0.2)) as url:
        async with anybody(url) as nobody:
            await nobody.get("/health")
        began = time.monotonic()
    assert held
    assert time.monotonic() - began < 30  # what an orchestrator gives; the exporter would take a minute
    for writer in held:
        writer.transport.abort()
    server.close()
