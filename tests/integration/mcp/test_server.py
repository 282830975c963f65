"""The MCP server, as the official client and plain HTTP see it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import pytest
from mcp import Client as MCPClient
from mcp.client.auth import OAuthClientProvider, OAuthRegistrationError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.exceptions import MCPError

from chatapi.agent.tools import TASK_TOOLS, object_schema
from chatapi.app import create_app
from chatapi.conversations.tools import CONVERSATION_TOOLS
from chatapi.tasks.service import TaskService
from tests.integration.test_database_trouble import behind_proxy
from tests.support.mcp_clients import connected, headers_for, message
from tests.support.postgres import Postgres
from tests.support.serving import REPOSITORY, Client, anybody, serve, settings_for, token_for

ALL_TOOLS = (*TASK_TOOLS, *CONVERSATION_TOOLS)
MODES = ["legacy", "2026-07-28", "auto"]


@pytest.fixture(params=MODES)
async def mcp(request: pytest.FixtureRequest, service: str, alice: Client) -> AsyncIterator[MCPClient]:
    """Alice's client, in each way of speaking the protocol; in a task of its own, which has to end what it began."""
    opened: asyncio.Future[MCPClient] = asyncio.get_running_loop().create_future()
    enough = asyncio.Event()

    async def hold() -> None:
        async with connected(service, alice.user_id, mode=request.param) as client:
            opened.set_result(client)
            await enough.wait()

    holding = asyncio.create_task(hold())
    holding.add_done_callback(lambda _: opened.cancel())  # it could not connect, and says why below
    with suppress(asyncio.CancelledError):
        yield await opened
    enough.set()
    await holding


async def called(client: MCPClient, name: str, **arguments: Any) -> Any:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result
    assert json.loads(text_of(result)) == result.structured_content
    return result.structured_content


def text_of(result: Any) -> str:
    (content,) = result.content
    text: str = content.text
    return text


class TestTools:
    async def test_are_those_of_the_registry_with_schemas_and_hints(self, mcp: MCPClient) -> None:
        listed = (await mcp.list_tools()).tools
        assert [
            (tool.name, tool.title, tool.description, tool.input_schema, tool.output_schema)
            for tool in listed
        ] == [
            (tool.name, tool.title, tool.spec.description, tool.spec.parameters, object_schema(tool.result))
            for tool in ALL_TOOLS
        ]
        hints = {tool.name: tool.annotations for tool in listed}
        assert {
            name: (hint.read_only_hint, hint.destructive_hint, hint.idempotent_hint, hint.open_world_hint)
            for name, hint in hints.items()
            if hint
        } == {
            "add_task": (False, False, False, False),
            "list_tasks": (True, False, True, False),
            "complete_task": (False, False, True, False),
            "delete_task": (False, True, True, False),
            "update_task": (False, True, True, False),
            "search_conversations": (True, False, True, False),
            "read_conversation": (True, False, True, False),
        }

    def test_are_named_in_the_document(self) -> None:
        (row,) = re.findall(r"^\| tools \| (.+?):", (REPOSITORY / "docs/mcp.md").read_text(), re.M)
        assert re.findall(r"`(\w+)`", row) == [tool.name for tool in ALL_TOOLS]

    async def test_take_no_user(self, mcp: MCPClient) -> None:
        for tool in (await mcp.list_tools()).tools:
            assert "user" not in json.dumps(tool.input_schema["properties"])
            assert tool.input_schema["additionalProperties"] is False
        result = await mcp.call_tool("list_tasks", {"user_id": "somebody-else"})
        assert result.is_error

    async def test_do_what_rest_sees(self, mcp: MCPClient, alice: Client) -> None:
        milk = await called(mcp, "add_task", title="milk", description="oat")
        bread = await called(mcp, "add_task", title="bread")
        await called(mcp, "complete_task", task_id=milk["id"])
        await called(mcp, "update_task", task_id=bread["id"], title="rye bread")
        assert [task["title"] for task in (await called(mcp, "list_tasks"))["items"]] == ["milk", "rye bread"]
        assert (await called(mcp, "list_tasks", status="pending"))["items"][0]["title"] == "rye bread"
        tasks = (await alice.get(alice.mine("/tasks"))).json()["items"]
        assert [(task["title"], task["completed"]) for task in tasks] == [
            ("milk", True),
            ("rye bread", False),
        ]
        for empty in ("", None):  # of which models are told the first
            await called(mcp, "update_task", task_id=milk["id"], description="oat")
            assert (await called(mcp, "update_task", task_id=milk["id"], description=empty))[
                "description"
            ] is None
        assert (await called(mcp, "delete_task", task_id=milk["id"]))["title"] == "milk"
        assert (await alice.get(alice.mine(f"/tasks/{milk['id']}"))).status_code == 404

    async def test_find_and_read_what_was_said(self, mcp: MCPClient, alice: Client, bob: Client) -> None:
        answer = await alice.said("say The kumquats are ripe.")
        of_bob = await bob.said("say More kumquats.")
        found = await called(mcp, "search_conversations", query="KUMQUATS ripe")
        assert [(each["role"], each["snippet"]) for each in found["items"]] == [
            ("assistant", "The kumquats are ripe."),
            ("user", "say The kumquats are ripe."),
        ]
        conversation_id = found["items"][0]["conversation_id"]
        read = await called(mcp, "read_conversation", conversation_id=conversation_id)
        assert [each["content"] for each in read["messages"]][-1] == "The kumquats are ripe."
        assert (read["id"], read["archived"], read["next_cursor"]) == (answer["conversation_id"], False, None)
        for name, arguments, error in (
            ("search_conversations", {"query": "%"}, "q: has no letter and no digit"),
            ("search_conversations", {"query": "a", "cursor": "x"}, "cursor: is not a cursor of this list"),
            ("read_conversation", {"conversation_id": of_bob["conversation_id"]}, "There is no conversation"),
        ):
            result = await mcp.call_tool(name, arguments)
            assert result.is_error
            assert error in text_of(result)

    @pytest.mark.parametrize(
        ("name", "arguments", "error"),
        [
            ("add_task", {}, "The call: Object missing required field `title`"),
            ("add_task", {"title": " "}, "title: must not be blank or contain U+0000"),
            ("add_task", {"title": "a\0b"}, "title: must not be blank or contain U+0000"),
            ("complete_task", {"task_id": "1"}, "task_id: Expected `int`, got `str`"),
            ("complete_task", {"task_id": 2**63}, "task_id: Expected `int` <= 9223372036854775807"),
            ("complete_task", {"task_id": 2**63 - 1}, "There is no task 9223372036854775807 of yours."),
            ("list_tasks", {"cursor": "nonsense"}, "cursor: is not a cursor of this list"),
        ],
    )
    async def test_say_what_is_wrong_with_a_call(
        self, mcp: MCPClient, name: str, arguments: dict[str, Any], error: str
    ) -> None:
        result = await mcp.call_tool(name, arguments)
        assert result.is_error
        assert text_of(result) == error

    async def test_that_do_not_exist_are_an_error_of_the_protocol(self, mcp: MCPClient) -> None:
        with pytest.raises(MCPError) as raised:
            await mcp.call_tool("drop_tables", {})
        assert raised.value.code == -32602

    async def test_text_that_is_not_unicode_is_refused(self, service: str, alice: Client) -> None:
        body = json.dumps(message("tools/call", {"name": "add_task", "arguments": {"title": "\ud800"}}))
        headers = {**headers_for("tools/call", "add_task"), "Content-Type": "application/json"}
        answer = await alice.post("/mcp", content=body, headers=headers)
        assert answer.json()["result"]["isError"], answer.text


class TestResources:
    async def test_are_ones_conversations_newest_activity_first(self, mcp: MCPClient, alice: Client) -> None:
        first = (await alice.said("say one"))["conversation_id"]
        second = (await alice.said("say two"))["conversation_id"]
        await alice.patch(alice.mine(f"/conversations/{second}"), json={"title": "Numbers"})
        listed = (await mcp.list_resources()).resources
        assert [(each.uri, each.title) for each in listed] == [
            (f"chatapi://conversations/{second}", "Numbers"),
            (f"chatapi://conversations/{first}", f"Conversation {first}"),
        ]
        read = await mcp.read_resource(listed[0].uri)
        contents = json.loads(read.contents[0].text)  # type: ignore[union-attr]
        assert (contents["id"], contents["title"], contents["next_cursor"]) == (second, "Numbers", None)
        assert contents["messages"] == await alice.messages(second)

    async def test_are_read_a_page_at_a_time(self, mcp: MCPClient, alice: Client) -> None:
        conversation_id = (await alice.said("say one"))["conversation_id"]
        path = alice.mine(f"/conversations/{conversation_id}/messages")
        cursor = (await alice.get(path, params={"limit": 1, "order": "desc"})).json()["next_cursor"]
        read = await mcp.read_resource(f"chatapi://conversations/{conversation_id}?cursor={cursor}")
        contents = json.loads(read.contents[0].text)  # type: ignore[union-attr]
        assert [each["role"] for each in contents["messages"]] == ["user"]
        (template,) = (await mcp.list_resource_templates()).resource_templates
        assert template.uri_template == "chatapi://conversations/{conversation_id}{?cursor}"

    async def test_of_another_user_are_not_there(self, mcp: MCPClient, bob: Client) -> None:
        theirs = (await bob.said("say secret"))["conversation_id"]
        assert (await mcp.list_resources()).resources == []
        for uri in (
            f"chatapi://conversations/{theirs}",
            "chatapi://conversations/9999999999999999999",
            "chatapi://tasks/1",
            Path(__file__).as_uri(),
        ):
            with pytest.raises(MCPError) as raised:
                await mcp.read_resource(uri)
            assert raised.value.code == (-32602 if mcp.protocol_version == "2026-07-28" else -32002)
            assert raised.value.message == "There is no such resource of yours."

    async def test_a_cursor_that_is_not_ours_is_refused(self, mcp: MCPClient) -> None:
        with pytest.raises(MCPError) as raised:
            await mcp.list_resources(cursor="nonsense")
        assert raised.value.code == -32602


class TestPrompts:
    async def test_are_none(self, mcp: MCPClient) -> None:
        assert (await mcp.list_prompts()).prompts == []
        with pytest.raises(MCPError, match="There is no prompt of this name"):
            await mcp.get_prompt("summary")


class TestProtocol:
    async def test_every_list_says_how_long_it_holds(self, alice: Client) -> None:
        for method, key, scope in (
            ("tools/list", "tools", "public"),
            ("prompts/list", "prompts", "public"),
            ("resources/templates/list", "resourceTemplates", "public"),
            ("resources/list", "resources", "private"),
        ):
            answer = await alice.post("/mcp", json=message(method), headers=headers_for(method))
            result = answer.json()["result"]
            assert (bool(result[key]), result["cacheScope"]) == (key in {"tools", "resourceTemplates"}, scope)
            assert result["ttlMs"] == (300_000 if scope == "public" else 0)

    @pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
    async def test_clients_that_initialize_are_served(self, alice: Client, version: str) -> None:
        params = {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "old", "version": "1"},
        }
        accept = {"Accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        answer = await alice.post("/mcp", json=body, headers=accept)
        assert answer.status_code == 200
        assert answer.json()["result"]["protocolVersion"] == version
        assert "mcp-session-id" not in answer.headers
        told = await alice.post(
            "/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=accept
        )
        assert told.status_code == 202
        listed = await alice.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
            headers={**accept, "MCP-Protocol-Version": version},
        )
        assert len(listed.json()["result"]["tools"]) == len(ALL_TOOLS)

    async def test_the_official_client_chooses_the_newest(self, service: str) -> None:
        async with connected(service, "alice") as client:
            assert client.protocol_version == "2026-07-28"

    async def test_an_unknown_version_is_refused_with_those_that_are_known(self, alice: Client) -> None:
        headers = {**headers_for("tools/list"), "MCP-Protocol-Version": "2031-01-01"}
        answer = await alice.post("/mcp", json=message("tools/list"), headers=headers)
        assert answer.status_code == 400
        assert "result" not in answer.json()

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT"])
    async def test_anything_but_post_is_405(self, alice: Client, method: str) -> None:
        answer = await alice.request(method, "/mcp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    async def test_a_body_over_the_bound_is_413(self, alice: Client) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield b" " * 64 * 1024

        headers = {**headers_for("tools/list"), "Content-Type": "application/json"}
        for content in (b" " * (1024 * 1024 + 1), chunks()):
            answer = await alice.post("/mcp", content=content, headers=headers)
            assert answer.status_code == 413
            assert problem_of(answer) == "body-too-large"

    @pytest.mark.parametrize("media_type", [None, "text/plain", "application/jsonx", "application/x+json"])
    async def test_a_body_that_is_not_said_to_be_json_is_415(
        self, alice: Client, media_type: str | None
    ) -> None:
        headers = headers_for("tools/list") | ({"Content-Type": media_type} if media_type else {})
        answer = await alice.post("/mcp", content=json.dumps(message("tools/list")), headers=headers)
        assert answer.status_code == 415
        assert problem_of(answer) == "unsupported-media-type"

    async def test_json_that_is_bottomless_is_refused(self, alice: Client) -> None:
        headers = {**headers_for("tools/list"), "Content-Type": "application/json"}
        for versions in (headers, {k: v for k, v in headers.items() if k != "MCP-Protocol-Version"}):
            answer = await alice.post("/mcp", content=b"[" * 500_000, headers=versions)
            assert answer.status_code == 400, answer.text


class NothingStored:
    """A client's store of tokens, for one that has never signed in."""

    async def get_tokens(self) -> None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        raise AssertionError(tokens)

    async def get_client_info(self) -> None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError(client_info)


class TestWhoMayCall:
    @pytest.mark.parametrize("path", ["/mcp", "/mcp/", "//mcp", "/mcp//", "/./mcp", "/mcp?x=1"])
    async def test_nobody_without_a_token(self, service: str, path: str) -> None:
        async with anybody("") as client:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "TRACE"):
                answer = await client.request(
                    method, f"{service}{path}", headers={"MCP-Protocol-Version": "2026-07-28"}
                )
                assert answer.status_code == 401, method
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    assert answer.json()["type"] == "urn:chatapi:problem:unauthenticated"

    async def test_nobody_with_a_bad_token(self, service: str) -> None:
        async with anybody(service) as client:
            answer = await client.post("/mcp", headers={"Authorization": "Bearer nonsense"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token"')

    @pytest.mark.parametrize(
        "path", ["/mcpfoo", "/mcp/foo", "/mcp.json", "/xmcp", "/foo/mcp", "/mcp/../mcpx"]
    )
    async def test_other_paths_are_404(self, service: str, alice: Client, path: str) -> None:
        assert (await alice.post(path, json={})).status_code == 404

    async def test_the_metadata_says_where_to_go(
        self, empty_database_url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = settings_for(empty_database_url, jwt_issuer="https://auth.example.com", log_level="INFO")
        async with serve(settings) as url, anybody(url) as client:
            said = capsys.readouterr().out
            assert "MCP clients without a token are sent to https://auth.example.com to sign in" in said
            metadata = f"{url}/.well-known/oauth-protected-resource/mcp"
            for headers, error in (
                ({}, ""),
                ({"Authorization": "Bearer nonsense"}, ', error="invalid_token"'),
            ):
                told = (await client.post("/mcp", headers=headers)).headers["www-authenticate"]
                assert told.startswith(f'Bearer resource_metadata="{metadata}"{error}')
            assert (await client.post("/register")).status_code == 404
            document = (await client.get(metadata)).json()
            assert document == {
                "resource": f"{url}/mcp",
                "resource_name": "chatapi",
                "bearer_methods_supported": ["header"],
                "authorization_servers": ["https://auth.example.com"],
            }

    async def test_without_an_issuer_there_is_no_metadata_and_a_client_shows_why_it_cannot_sign_in(
        self, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The official client, which falls back to the versions in which a server registered its clients itself."""
        settings = settings_for(f"sqlite:///{tmp_path}/other.db", log_level="INFO")
        create_app(settings)
        assert capsys.readouterr().out == "", "commands make the app, too, and print what programs read"
        async with serve(settings):
            assert "They need a token in their configuration" in capsys.readouterr().out
        async with anybody(service) as client:
            assert (await client.get("/.well-known/oauth-protected-resource/mcp")).status_code == 404
        signing_in = OAuthClientProvider(
            f"{service}/mcp",
            OAuthClientMetadata(redirect_uris=["http://localhost/callback"]),  # type: ignore[list-item]
            NothingStored(),
        )
        with pytest.raises(ExceptionGroup) as raised:
            async with (
                httpx2.AsyncClient(auth=signing_in, timeout=60) as http,
                MCPClient(streamable_http_client(f"{service}/mcp", http_client=http)),
            ):
                pass
        assert raised.group_contains(
            OAuthRegistrationError, match="put a token into the client's configuration"
        )

    async def test_in_demo_mode_the_demo_user(self, empty_database_url: str) -> None:
        async with (
            serve(settings_for(empty_database_url, demo_mode=True)) as url,
            anybody(url) as client,
        ):
            body = message("tools/call", {"name": "add_task", "arguments": {"title": "milk"}})
            answer = await client.post("/mcp", json=body, headers=headers_for("tools/call", "add_task"))
            assert answer.json()["result"]["structuredContent"]["title"] == "milk"
            assert (await client.get("/api/demo/tasks")).json()["items"][0]["title"] == "milk"


DEFAULT = "localhost,127.0.0.1,[::1]"
NAMED = "chat.example.com, Other.example.com:8443"
HOSTS: dict[str, list[tuple[str, str | None, int]]] = {
    DEFAULT: [
        ("127.0.0.1:8000", None, 200),
        ("localhost", None, 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("evil.example.com", None, 421),
        ("localhost.evil.example.com", None, 421),
        ("localhost:8000", "http://evil.example.com", 403),
        ("localhost:8000", "http://localhost:5173", 200),
    ],
    NAMED: [
        ("chat.example.com", "https://chat.example.com", 200),
        ("chat.example.com:8000", None, 200),
        ("other.example.com:8443", None, 200),
        ("other.example.com", None, 421),
        ("localhost:8000", None, 421),
    ],
    "*": [("anything.example.com", "https://anything.example.com", 200)],
}


REFUSED_FOR = {421: "host-not-allowed", 403: "origin-not-allowed"}


class TestHosts:
    @pytest.mark.parametrize("allowed", HOSTS)
    async def test_those_that_are_allowed_are_served(self, tmp_path: Path, allowed: str) -> None:
        settings = settings_for(f"sqlite:///{tmp_path}/unused", mcp_allowed_hosts=allowed, migrate="off")
        bearer = {"Authorization": f"Bearer {token_for('alice')}"}
        async with serve(settings) as url, anybody(url, headers=bearer) as client:
            for host, origin, status in HOSTS[allowed]:
                headers = {"Host": host, **headers_for("tools/list")} | ({"Origin": origin} if origin else {})
                answer = await client.post("/mcp", json=message("tools/list"), headers=headers)
                assert answer.status_code == status, (host, origin, answer.text)
                if status != 200:
                    assert problem_of(answer) == REFUSED_FOR[status]


class TestTwoUsersAtOnce:
    async def test_never_see_each_others_tasks(self, service: str) -> None:
        """Each through MCP, old and new, and REST, all at the same time."""

        async def use(user_id: str, mode: str) -> None:
            async with connected(service, user_id, mode=mode) as client, Client(service, user_id) as rest:
                for number in range(5):
                    await called(client, "add_task", title=f"{user_id} by MCP {number}")
                    await rest.post(rest.mine("/tasks"), json={"title": f"{user_id} by REST {number}"})
                    listed = (await called(client, "list_tasks"))["items"]
                    assert {each["title"].split(" ")[0] for each in listed} == {user_id}
                    over_rest = (await rest.get(rest.mine("/tasks"))).json()["items"]
                    assert {each["title"].split(" ")[0] for each in over_rest} == {user_id}

        users = [uuid4().hex for _ in range(2)]
        await asyncio.gather(*(use(user_id, mode) for user_id in users for mode in ("legacy", "2026-07-28")))
        for user_id in users:
            async with Client(service, user_id) as rest:
                assert len((await rest.get(rest.mine("/tasks"))).json()["items"]) == 20

    async def test_one_cannot_touch_what_is_the_others(self, mcp: MCPClient, bob: Client) -> None:
        task = (await bob.post(bob.mine("/tasks"), json={"title": "mine"})).json()
        for name in ("complete_task", "delete_task", "update_task"):
            result = await mcp.call_tool(name, {"task_id": task["id"]})
            assert result.is_error
            assert text_of(result) == f"There is no task {task['id']} of yours."
        assert (await bob.get(bob.mine(f"/tasks/{task['id']}"))).json() == task


def problem_of(answer: httpx.Response) -> str:
    """The last part of the type of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["type"]).rpartition(":")[2]


async def until_answered(alice: Client) -> None:
    for _ in range(500):
        if (await alice.get(alice.mine("/tasks"))).status_code == 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the database stayed away")


class TestTroubleOfTheService:
    """Is an error of the protocol, with what REST would say, and without its reasons."""

    @pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
    async def test_a_database_that_is_away(self, postgres: Postgres, mode: str) -> None:
        async with (
            behind_proxy(postgres) as (between, alice),
            connected(str(alice.base_url).rstrip("/"), "alice", mode=mode) as client,
        ):
            await called(client, "add_task", title="milk")
            between.cut()
            for _ in range(2):
                with pytest.raises(MCPError) as raised:
                    await client.call_tool("list_tasks", {})
                assert raised.value.code == -32603
                assert raised.value.message == "The database does not answer; try again shortly."
                assert raised.value.data == {
                    "type": "urn:chatapi:problem:database-unavailable",
                    "title": "The database is away",
                    "retry_after": 1,
                }
            between.heal()
            await until_answered(alice)
            assert len((await called(client, "list_tasks"))["items"]) == 1

    async def test_a_database_that_was_away_from_the_start(self, postgres: Postgres) -> None:
        async with behind_proxy(postgres, migrate="off") as (between, alice):
            between.cut()
            async with connected(str(alice.base_url).rstrip("/"), "alice") as client:
                assert len((await client.list_tools()).tools) == len(ALL_TOOLS)
                with pytest.raises(MCPError, match="The database does not answer"):
                    await client.list_resources()
            between.heal()

    async def test_a_call_whose_commit_was_cut_off_is_not_made_twice(self, postgres: Postgres) -> None:
        async with (
            behind_proxy(postgres) as (between, alice),
            connected(str(alice.base_url).rstrip("/"), "alice") as client,
        ):
            await called(client, "add_task", title="bread")
            between.cut_at(b"COMMIT", behind=b"milk")
            with pytest.raises(MCPError, match="look whether it took effect"):
                await client.call_tool("add_task", {"title": "milk"})
            titles = [task["title"] for task in (await called(client, "list_tasks"))["items"]]
            assert titles == ["bread", "milk"]

    async def test_a_schema_of_another_version(self, bare_database_url: str) -> None:
        async with (
            serve(settings_for(bare_database_url, migrate="off")) as url,
            connected(url, "alice", mode="legacy") as client,
        ):
            with pytest.raises(MCPError, match="chatapi database upgrade") as raised:
                await client.call_tool("list_tasks", {})
            assert raised.value.data["type"] == "urn:chatapi:problem:schema-outdated"

    @pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
    async def test_a_defect(
        self, service: str, mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a-secret-of-the-service")

        monkeypatch.setattr(TaskService, "page", broken)
        async with connected(service, "alice", mode=mode) as client:
            with pytest.raises(MCPError) as raised:
                await client.call_tool("list_tasks", {})
        assert "secret" not in f"{raised.value.error}"
        assert raised.value.data["type"] == "urn:chatapi:problem:internal-error"
        assert "a-secret-of-the-service" in caplog.text


async def test_conversations_can_be_kept_from_clients(database_url: str) -> None:
    """And a search counts for its own limit."""
    settings = settings_for(database_url, mcp_conversations="off")
    async with serve(settings) as url, Client(url, f"kept-{uuid4().hex}") as client:
        answer = await client.said("say A secret.")
        async with connected(url, client.user_id) as mcp:
            assert [tool.name for tool in (await mcp.list_tools()).tools] == [
                tool.name for tool in TASK_TOOLS
            ]
            assert (await mcp.list_resources()).resources == []
            assert (await mcp.list_resource_templates()).resource_templates == []
            with pytest.raises(MCPError):
                await mcp.read_resource(f"chatapi://conversations/{answer['conversation_id']}")
            with pytest.raises(MCPError):
                await mcp.call_tool("search_conversations", {"query": "secret"})
    settings = settings_for(database_url, rate_limit_search="1/minute")
    async with serve(settings) as url, connected(url, f"kept-{uuid4().hex}") as mcp:
        await called(mcp, "search_conversations", query="secret")
        with pytest.raises(MCPError, match="The limit is 1 requests"):
            await mcp.call_tool("search_conversations", {"query": "secret"})
        await called(mcp, "list_tasks")
