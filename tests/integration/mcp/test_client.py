"""MCP servers of the operator's own: their tools in the assistant's hands, and their absence."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mcp.types import CallToolResult, TextContent
from msgspec.structs import replace

from chatapi.agent.ports import ToolError, ToolSpec
from chatapi.agent.tools import TASK_TOOLS
from chatapi.app import create_app
from chatapi.mcp.client import MAX_RESULT, MAX_TOOLS, Connection, ExternalTools, Session, result_of
from chatapi.mcp.config import read_servers
from chatapi.mcp.servers import HttpServer
from chatapi.settings import Settings, SettingsError
from tests.support import mcp_server, serving
from tests.support.agents import CommandedAgent
from tests.support.mcp_server import free_port, weather_over_http
from tests.support.serving import REPOSITORY, SLOW_MACHINE, Client, serve

# The machine that runs the tests may be slow to start a server's process.
SLOW_START = replace(SLOW_MACHINE, mcp_connect=60)
SOON_AGAIN = replace(SLOW_MACHINE, mcp_retry=0.1, mcp_longest_retry=0.1)
STDIO = {
    "command": sys.executable,
    "args": ["-m", mcp_server.__name__],
    "env": {"PYTHONPATH": str(REPOSITORY), "GIVEN": "${CHATAPI_TEST_GIVEN}"},
}


class WatchedAgent(CommandedAgent):
    """Keeps what it was offered."""

    offered: tuple[ToolSpec, ...] = ()

    def reply(self, prompt: Any, tools: Any) -> Any:
        self.offered = tuple(tools.specs)
        return super().reply(prompt, tools)


def settings_for(database_url: str, **changes: Any) -> Settings:
    """Who waits for a server asks for it again and again, more often than sixty times a minute."""
    return serving.settings_for(database_url, **{"rate_limit_chat": "off", **changes})


def servers_file(directory: Path, **servers: Any) -> str:
    path = directory / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return str(path)


def nothing() -> str:
    return ""


async def outcome(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    (call,) = (await client.said(f"call {tool} {json.dumps(arguments)}"))["tool_calls"]
    assert (call["name"], call["arguments"]) == (tool, arguments)
    return call  # type: ignore[no-any-return]


async def until_offered(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    for _ in range(300):
        call = await outcome(client, tool, **arguments)
        if "result" in call:
            return call
        await asyncio.sleep(0.1)
    raise AssertionError(f"{tool} did not come: {call}")


async def until_gone(client: Client, tool: str, **arguments: Any) -> None:
    for _ in range(300):
        if (await outcome(client, tool, **arguments)).get("error") == f"There is no tool {tool}.":
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{tool} stayed")


class TestServers:
    async def test_over_http_and_stdio_serve_the_assistant(
        self, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHATAPI_TEST_GIVEN", "a-value")
        agent = WatchedAgent()
        async with weather_over_http() as (url, listener):
            http = {"type": "http", "url": url, "headers": {"Authorization": "Bearer ${CHATAPI_TEST_GIVEN}"}}
            settings = settings_for(
                empty_database_url, mcp_servers=servers_file(tmp_path, far=http, near=STDIO)
            )
            async with serve(settings, agent, SLOW_START) as base_url, Client(base_url, "alice") as alice:
                assert (await outcome(alice, "far__forecast", city="Oslo"))["result"] == {
                    "result": "Rain in Oslo"
                }
                assert (await outcome(alice, "near__environment", name="GIVEN"))["result"] == {
                    "result": "a-value"
                }
                assert "out of order" in (await outcome(alice, "far__fail", reason="out of order"))["error"]
                assert "error" in await outcome(alice, "far__forecast", town="Oslo")
                processes = [await outcome(alice, "near__process") for _ in range(3)]
                assert len({call["result"]["result"] for call in processes}) == 1
                again = await alice.said('call add_task {"title": "umbrella"}')
                assert again["tool_calls"][0]["result"]["title"] == "umbrella"
        assert set(listener.seen) == {"Bearer a-value"}
        names = [spec.name for spec in agent.offered]
        assert "far__a.name.that.no.model.takes" not in names
        assert {"far__forecast", "near__forecast"} < set(names)
        # The registry's own are the same for every assistant, whoever else serves tools.
        own = sorted((tool.spec for tool in TASK_TOOLS), key=attrgetter("name"))
        assert [spec for spec in agent.offered if "__" not in spec.name] == own
        assert names == sorted(names)  # whichever server came up first

    async def test_have_their_schemas_made_safe_and_check_by_their_own(
        self, empty_database_url: str, tmp_path: Path
    ) -> None:
        agent = WatchedAgent()
        async with weather_over_http() as (url, _):
            settings = settings_for(empty_database_url, mcp_servers=servers_file(tmp_path, far={"url": url}))
            async with serve(settings, agent) as base_url, Client(base_url, "alice") as alice:
                bad = await outcome(alice, "far__measure", station="nonsense")
                assert r"^\w\d+$" in bad["error"]
                good = await outcome(alice, "far__measure", station="a1", days=2)
                assert good["result"] == {"result": "a1 None c 2"}
        (measure,) = [spec for spec in agent.offered if spec.name == "far__measure"]
        assert measure.parameters == {
            "type": "object",
            "properties": {
                "station": {"type": "string"},
                "parent": {"type": "integer"},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                "days": {"type": "integer"},
            },
            "required": ["station"],
        }
        assert measure.description == (
            "A measurement, by arguments that a grammar of llama.cpp cannot be made of.\n\nNot in the schema, but "
            r"checked: station matches ^\w\d+$; station has 2000 characters at most."
        )

    async def test_one_that_is_away_costs_its_tools_until_it_is_back(
        self, empty_database_url: str, tmp_path: Path
    ) -> None:
        port = free_port()
        file = servers_file(tmp_path, far={"url": f"http://127.0.0.1:{port}/mcp"})
        settings = settings_for(empty_database_url, mcp_servers=file)
        async with serve(settings, patience=SOON_AGAIN) as base_url, Client(base_url, "alice") as alice:
            assert (await outcome(alice, "far__forecast", city="Oslo"))["error"] == (
                "There is no tool far__forecast."
            )
            for _ in range(2):  # it comes, goes, and comes again
                async with weather_over_http(port):
                    await until_offered(alice, "far__forecast", city="Oslo")
                assert (await outcome(alice, "far__forecast", city="Rome"))["error"] == (
                    "far is away at the moment."
                )

    @pytest.mark.slow
    async def test_one_that_has_forgotten_its_session_is_asked_again_at_once(
        self, empty_database_url: str, tmp_path: Path
    ) -> None:
        """As after its restart, which costs no user anything."""
        patience = replace(SLOW_MACHINE, mcp_retry=300, mcp_longest_retry=300, mcp_probe=300)
        port = free_port()
        settings = settings_for(
            empty_database_url,
            mcp_servers=servers_file(tmp_path, far={"url": f"http://127.0.0.1:{port}/mcp"}),
        )
        async with AsyncExitStack() as stack:
            before = await stack.enter_async_context(AsyncExitStack())
            await before.enter_async_context(weather_over_http(port, sessions=True))
            base_url = await stack.enter_async_context(serve(settings, patience=patience))
            alice = await stack.enter_async_context(Client(base_url, "alice"))
            for _ in range(2):
                assert "result" in await outcome(alice, "far__forecast", city="Oslo")
                await before.aclose()
                await before.enter_async_context(weather_over_http(port, sessions=True))
                calls = await asyncio.gather(
                    *(outcome(alice, "far__forecast", city=str(number)) for number in range(5))
                )
                assert [call["result"]["result"] for call in calls] == [f"Rain in {n}" for n in range(5)]

    @pytest.mark.parametrize("structured", [False, True])
    async def test_say_what_of_a_result_cannot_be_read(
        self, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, structured: bool
    ) -> None:
        if structured:
            monkeypatch.setenv("STRUCTURED", "yes")
        others = (
            "[A picture (image/png, 6 bytes) was left out: only text can be read.]\n"
            "[A link to map, https://maps.example/1]\n"
            "file:///notes.txt:\nBring a coat.\n"
            "[A file file:///a.zip (of unknown kind, 3 bytes) was left out: only text can be read.]"
        )
        async with weather_over_http() as (url, _):
            settings = settings_for(empty_database_url, mcp_servers=servers_file(tmp_path, far={"url": url}))
            async with serve(settings) as base_url, Client(base_url, "alice") as alice:
                result = (await outcome(alice, "far__look"))["result"]
                if structured:
                    assert result == {"structured_content": {"seen": True}, "text": others}
                else:
                    assert result == {"text": f"Here it is.\n{others}"}

    @pytest.mark.parametrize("structured", [None, {"text": "x" * MAX_RESULT}])
    def test_have_a_result_that_is_too_long_cut(self, structured: dict[str, str] | None) -> None:
        content = [TextContent(text="x" * (MAX_RESULT + 5))]
        cut = result_of(CallToolResult(content=[*content], structured_content=structured))
        assert cut == {"text": f"{'x' * MAX_RESULT}\n[5 characters more were left out.]"}

    @pytest.mark.slow
    async def test_a_process_that_dies_is_started_again(
        self, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHATAPI_TEST_GIVEN", "x")
        settings = settings_for(empty_database_url, mcp_servers=servers_file(tmp_path, near=STDIO))
        patience = replace(SOON_AGAIN, mcp_connect=60)
        async with serve(settings, patience=patience) as base_url, Client(base_url, "alice") as alice:
            before = (await outcome(alice, "near__process"))["result"]
            assert (await outcome(alice, "near__leave"))["error"] == "near is away at the moment."
            assert (await until_offered(alice, "near__process"))["result"] != before

    async def test_hold_no_connection_to_the_database_while_they_work(
        self, empty_database_url: str, tmp_path: Path
    ) -> None:
        gate = CommandedAgent.gates[name := uuid4().hex]
        async with weather_over_http() as (url, _):
            file = servers_file(tmp_path, far={"url": url})
            settings = settings_for(empty_database_url, mcp_servers=file, db_pool_size=1)
            async with serve(settings) as base_url, Client(base_url, "alice") as alice:
                turn = asyncio.create_task(outcome(alice, "far__wait", name=name))
                await gate.reached.wait()
                assert (await alice.post(alice.mine("/tasks"), json={"title": "milk"})).status_code == 201
                gate.opened.set()
                assert (await turn)["result"] == {"result": "waited"}

    async def test_whose_tools_change_or_that_fall_silent_are_noticed(
        self, empty_database_url: str, tmp_path: Path
    ) -> None:
        patience = replace(SOON_AGAIN, mcp_probe=0.1)
        port = free_port()
        async with weather_over_http(port) as (url, listener):
            settings = settings_for(empty_database_url, mcp_servers=servers_file(tmp_path, far={"url": url}))
            async with serve(settings, patience=patience) as base_url, Client(base_url, "alice") as alice:
                listener.server.remove_tool("forecast")
                await until_gone(alice, "far__forecast", city="Oslo")
                assert "error" in await outcome(alice, "far__lie")
                await until_offered(alice, "far__environment", name="HOME")
                for number in range(MAX_TOOLS):
                    listener.server.add_tool(nothing, name=f"nothing_{number}")
                await until_offered(alice, "far__nothing_0")
                await until_gone(alice, f"far__nothing_{MAX_TOOLS - 1}")

    async def test_a_silent_one_is_given_up(self, empty_database_url: str, tmp_path: Path) -> None:
        patience = replace(SLOW_MACHINE, mcp_connect=2)  # enough to be heard by it
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        file = servers_file(tmp_path, far={"url": f"http://127.0.0.1:{port}/mcp"})
        async with (
            serve(settings_for(empty_database_url, mcp_servers=file), patience=patience) as base_url,
            Client(base_url, "alice") as alice,
        ):
            assert (await alice.said("say Hello."))["response"] == "Hello."
        silent.close()
        for writer in held:
            writer.transport.abort()
        assert held


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - the connection tells nobody
        await asyncio.sleep(0.01)


@asynccontextmanager
async def tools_of(url: str, **patience: float) -> AsyncIterator[ExternalTools]:
    tools = ExternalTools({"far": HttpServer(url=url)}, replace(SLOW_MACHINE, **patience))
    await tools.start()
    try:
        yield tools
    finally:
        await tools.close()


class TestCalls:
    """All users' calls share one session, which none of them may end for the others."""

    async def test_whose_result_breaks_its_schema_end_no_other(self) -> None:
        gate = CommandedAgent.gates[name := uuid4().hex]
        async with weather_over_http() as (url, _), tools_of(url) as tools:
            waiting = asyncio.ensure_future(tools()["far__wait"].call({"name": name}))
            await gate.reached.wait()
            with pytest.raises(
                ToolError, match="far gave a result that does not fit its own description; the"
            ):
                await tools()["far__lie"].call({})
            gate.opened.set()
            assert await waiting == {"result": "waited"}
            assert "far__lie" in tools()

    @pytest.mark.parametrize("sessions", [False, True])
    async def test_that_take_too_long_end_no_other(self, *, sessions: bool) -> None:
        gate = CommandedAgent.gates[name := uuid4().hex]
        async with (
            weather_over_http(sessions=sessions) as (url, _),
            tools_of(url, mcp_call=0.1, mcp_retry=300) as tools,
        ):
            for _ in range(3):
                with pytest.raises(ToolError, match=r"^far did not answer within 0.1 s\.$"):
                    await tools()["far__wait"].call({"name": name})
            gate.opened.set()

    async def test_without_an_answer_show_that_a_server_is_silent(self) -> None:
        patience = {"mcp_call": 0.1, "mcp_connect": 1, "mcp_probe": 300, "mcp_retry": 0.1}
        async with weather_over_http() as (url, listener), tools_of(url, **patience) as tools:
            await until(lambda: "far__forecast" in tools())
            listener.silent = True
            with pytest.raises(ToolError, match="did not answer"):
                await tools()["far__forecast"].call({"city": "Oslo"})
            await until(lambda: not tools())
            listener.silent = False
            await until(lambda: "far__forecast" in tools())


async def test_a_connection_ends_when_it_is_told_to_whatever_the_sdk_makes_of_that() -> None:
    waiting = asyncio.Event()

    class Deaf(Connection):
        async def _connect_and_wait(self, session: Session) -> None:
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError from None

    keeping = asyncio.create_task(Deaf("far", HttpServer(url="http://far"), SOON_AGAIN).keep())
    await waiting.wait()
    keeping.cancel()
    await asyncio.wait({keeping}, timeout=60)
    assert keeping.done()


class TestFile:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (None, "cannot be read: No such file or directory"),
            ("{", "is not JSON"),
            ("[]", 'has no object "mcpServers"'),
            ('{"mcpServers": []}', 'has no object "mcpServers"'),
            ('{"mcpServers": {"a": 1}}', "a: Expected `object`, got `int`"),
            ('{"mcpServers": {"a": {}}}', "a: Object missing required field `command`"),
            ('{"mcpServers": {"a": {"url": "ftp://x"}}}', "a.url: Expected `str` matching regex"),
            (
                '{"mcpServers": {"a": {"url": "http://x", "bad": 1}}}',
                "a: Object contains unknown field `bad`",
            ),
            ('{"mcpServers": {"a__b": {"url": "http://x"}}}', "a__b is not a name"),
            (
                '{"mcpServers": {"a": {"command": "x", "args": ["${NOT_THERE}"]}}}',
                "${NOT_THERE} is not in the",
            ),
            ("[" * 100_000, "is nested too deeply"),
            ('{"mcpServers": {"a": ' + "[" * 600 + "]" * 600 + "}}", "is nested too deeply"),
        ],
        ids=lambda value: str(value)[:25],
    )
    def test_that_is_wrong_stops_the_start(self, tmp_path: Path, text: str | None, said: str) -> None:
        path = tmp_path / "mcp.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(SettingsError, match=r"^MCP_SERVERS: ") as raised:
            create_app(settings_for(f"sqlite:///{tmp_path}/unused.db", mcp_servers=str(path)))
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_takes_variables_in_any_text(self, tmp_path: Path) -> None:
        file = servers_file(tmp_path, a={"url": "http://${HOST}/mcp", "headers": {"X": "${A}-${B}"}})
        (server,) = read_servers(file, {"HOST": "h", "A": "1", "B": "2"}).values()
        assert server == HttpServer(url="http://h/mcp", headers={"X": "1-2"})
