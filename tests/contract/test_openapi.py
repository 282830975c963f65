"""The OpenAPI document, and a walk over everything in it as nobody, as somebody else, and with somebody else's ids."""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import jsonschema
import pytest

from chatapi.web.browsers import EVERYWHERE, EXPOSED
from tests.support.agents import CommandedAgent
from tests.support.files import uploaded
from tests.support.serving import REPOSITORY, Client, anybody

METHODS = {"get", "post", "put", "patch", "delete"}
PUBLIC = ("/health", "/docs", "/metrics")
# What any response of HTTP has, or what says what a browser may do with it. Any other header is said of each operation.
STANDARD = {
    *(name.decode() for name in EVERYWHERE),
    *("content-length", "content-security-policy", "content-type", "date"),
    *("server", "transfer-encoding", "vary"),
}
# What no page needs to read: it is for proxies, for those who ask for ranges, and for the AI SDK's tests.
NOT_FOR_PAGES = {"accept-ranges", "x-accel-buffering", "x-vercel-ai-ui-message-stream"}
BODIES: dict[str, Any] = {
    "chat": {"message": "say Hello."},
    "chatAsTokenUser": {"message": "say Hello."},
    "addTask": {"title": "milk"},
    "replaceTask": {"title": "milk"},
    "changeTask": {"title": "milk"},
    "answerTurn": {"answers": [{"id": "call_1_0", "approved": True}]},
    "giveFeedback": {"rating": "up", "comment": "Thanks"},
    "changeConversation": {"title": "Shopping"},
    "makeKey": {"name": "a program"},
    "createChatCompletion": {
        "model": CommandedAgent.model,
        "messages": [{"role": "user", "content": "say Hello."}],
    },
    "createResponse": {"input": "say Hello."},
    "createConversation": {},
    "updateConversation": {"metadata": {"topic": "food"}},
    "addItems": {"items": [{"role": "user", "content": "milk"}]},
}
EVERYBODYS = {"model_id": CommandedAgent.model}
QUERIES = {
    "/api/{user_id}": "?confirm={user_id}",
    "/api/{user_id}/conversations": "?archived=true",
    "/api/{user_id}/search": "?q=milk",
}


@pytest.fixture
async def document(service: str) -> dict[str, Any]:
    async with anybody(service) as client:
        response = await client.get("/docs/openapi.json")
        assert response.status_code == 200
        found: dict[str, Any] = response.json()
        return found


def url_of(path: str, user_id: str, ids: dict[str, Any]) -> str:
    """The path filled in, with what it asks for, so that nothing but the owner stands in its way."""
    return (path + QUERIES.get(path, "")).format(user_id=user_id, **EVERYBODYS, **ids)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method, path, operation


def guarded(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [each for each in operations(document) if not each[1].startswith(PUBLIC)]


@pytest.fixture
async def ids(alice: Client) -> dict[str, Any]:
    """One of everything of Alice's."""
    response = (await alice.post("/v1/responses", json=BODIES["createResponse"])).json()
    conversation = (await alice.post("/v1/conversations", json={})).json()
    items = f"/v1/conversations/{conversation['id']}/items"
    (item,) = (await alice.post(items, json=BODIES["addItems"])).json()["data"]
    answer = await alice.said('call add_task {"title": "milk"}')
    return {
        "conversation_id": answer["conversation_id"],
        "turn_id": answer["turn_id"],
        "message_id": answer["message_id"],
        "task_id": answer["tool_calls"][0]["result"]["id"],
        "file_id": (await uploaded(alice, b"milk"))["id"],
        "response_id": response["id"],
        "conversation": conversation["id"],
        "item": item["id"],
        "key_id": (await alice.post(alice.mine("/keys"), json=BODIES["makeKey"])).json()["id"],
    }


async def asked(
    client: httpx.AsyncClient, operation: dict[str, Any], method: str, path: str
) -> httpx.Response:
    """Make the operation's request. A body where none is wanted is nobody's concern, whatever it is."""
    if operation["operationId"] == "addFile":
        return await client.post(path, files={"file": ("a.txt", b"milk")})
    if "requestBody" not in operation and method != "get":
        return await client.request(method, path, content=b"x", headers={"Content-Type": "text/plain"})
    return await client.request(method, path, json=BODIES.get(operation["operationId"]))


def told_in_api_md() -> set[tuple[str, str]]:
    """The routes in the table on top of docs/api.md, in which `…` stands for `/api/{user_id}`, or methods share a path."""
    table = (REPOSITORY / "docs/api.md").read_text().partition("\n## ")[0]
    told, methods = set(), []
    for span in re.findall(r"`([A-Z]+(?: [/…]\S+)?)`", table):
        method, _, path = span.partition(" ")
        methods.append(method)
        if path:
            told |= {(each, path.replace("…", "/api/{user_id}")) for each in methods}
            methods = []
    return told


class TestDocument:
    async def test_has_the_routes_of_api_md(self, document: dict[str, Any]) -> None:
        found = {(method.upper(), path) for method, path, _ in operations(document)}
        assert told_in_api_md() == {each for each in found if not each[1].startswith("/v1/")}

    async def test_is_openapi_3_1_with_every_route(self, document: dict[str, Any]) -> None:
        assert document["openapi"].startswith("3.1")
        found = {(method.upper(), path) for method, path, _ in operations(document)}
        assert {
            ("POST", "/api/chat"),
            ("POST", "/api/{user_id}/chat"),
            ("GET", "/api/me"),
            ("GET", "/api/{user_id}/conversations"),
            ("DELETE", "/api/{user_id}/conversations"),
            ("GET", "/api/{user_id}/conversations/{conversation_id}"),
            ("PATCH", "/api/{user_id}/conversations/{conversation_id}"),
            ("DELETE", "/api/{user_id}/conversations/{conversation_id}"),
            ("GET", "/api/{user_id}/conversations/{conversation_id}/messages"),
            ("GET", "/api/{user_id}/search"),
            ("PUT", "/api/{user_id}/messages/{message_id}/feedback"),
            ("DELETE", "/api/{user_id}/messages/{message_id}/feedback"),
            ("GET", "/api/{user_id}/tasks"),
            ("POST", "/api/{user_id}/tasks"),
            ("GET", "/api/{user_id}/tasks/{task_id}"),
            ("PUT", "/api/{user_id}/tasks/{task_id}"),
            ("PATCH", "/api/{user_id}/tasks/{task_id}"),
            ("DELETE", "/api/{user_id}/tasks/{task_id}"),
            ("PATCH", "/api/{user_id}/tasks/{task_id}/complete"),
            ("GET", "/api/{user_id}/export"),
            ("DELETE", "/api/{user_id}"),
            ("POST", "/api/{user_id}/files"),
            ("GET", "/api/{user_id}/files/{file_id}"),
            ("DELETE", "/api/{user_id}/files/{file_id}"),
            ("GET", "/api/{user_id}/keys"),
            ("POST", "/api/{user_id}/keys"),
            ("DELETE", "/api/{user_id}/keys/{key_id}"),
            ("POST", "/v1/responses"),
            ("GET", "/v1/responses/{response_id}"),
            ("DELETE", "/v1/responses/{response_id}"),
            ("POST", "/v1/responses/{response_id}/cancel"),
            ("GET", "/v1/responses/{response_id}/input_items"),
            ("POST", "/v1/conversations"),
            ("GET", "/v1/conversations/{conversation}"),
            ("POST", "/v1/conversations/{conversation}"),
            ("DELETE", "/v1/conversations/{conversation}"),
            ("GET", "/v1/conversations/{conversation}/items"),
            ("POST", "/v1/conversations/{conversation}/items"),
            ("GET", "/v1/conversations/{conversation}/items/{item}"),
            ("DELETE", "/v1/conversations/{conversation}/items/{item}"),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/{model_id}"),
            ("GET", "/health"),
            ("GET", "/health/live"),
            ("GET", "/health/ready"),
        } <= found

    async def test_operation_ids_are_unique(self, document: dict[str, Any]) -> None:
        ids = [operation["operationId"] for _, _, operation in operations(document)]
        assert len(ids) == len(set(ids))

    async def test_every_error_is_a_problem_and_none_is_400_but_where_we_speak_as_openai_does(
        self, document: dict[str, Any]
    ) -> None:
        for _, path, operation in operations(document):
            for status, response in operation["responses"].items():
                if path.startswith("/v1/"):
                    assert status != "422"
                    if int(status) >= 400:
                        schema = {"$ref": "#/components/schemas/ErrorResponse"}
                        assert response["content"] == {"application/json": {"schema": schema}}
                    continue
                assert status != "400"
                if int(status) >= 400 and path != "/health":
                    assert list(response["content"]) == ["application/problem+json"]

    async def test_bodies_come_with_examples(self, document: dict[str, Any]) -> None:
        schemas = document["components"]["schemas"]
        assert schemas["MessageRequest"]["properties"]["message"]["examples"]
        assert schemas["NewTask"]["properties"]["title"]["examples"]

    @pytest.mark.parametrize(
        ("conversation_id", "fits"),
        [(1, True), ("1", True), (None, True), ("x", False), (1.5, False)],
        ids=["number", "text of digits", "none", "other text", "fraction"],
    )
    async def test_says_how_a_conversation_is_named(
        self, alice: Client, document: dict[str, Any], conversation_id: object, *, fits: bool
    ) -> None:
        body = {"message": "say Hello.", "conversation_id": conversation_id}
        schema = document["components"]["schemas"]["MessageRequest"]
        assert jsonschema.Draft202012Validator(schema).is_valid(body) == fits
        assert ((await alice.post("/api/chat", json=body)).status_code != 422) == fits

    async def test_what_needs_a_token_says_so(self, document: dict[str, Any]) -> None:
        assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        for _, path, operation in operations(document):
            assert operation.get("security") == (None if path.startswith(PUBLIC) else [{"bearer": []}])


class TestWalk:
    async def test_as_nobody_everything_is_401(
        self, service: str, alice: Client, document: dict[str, Any], ids: dict[str, Any]
    ) -> None:
        async with anybody(service) as nobody:
            for method, path, operation in guarded(document):
                response = await asked(nobody, operation, method, url_of(path, alice.user_id, ids))
                assert response.status_code == 401, (method, path)

    async def test_as_somebody_else_everything_of_alice_is_403(
        self, alice: Client, bob: Client, document: dict[str, Any], ids: dict[str, Any]
    ) -> None:
        walked = 0
        for method, path, operation in guarded(document):
            if "{user_id}" in path:
                walked += 1
                response = await asked(bob, operation, method, url_of(path, alice.user_id, ids))
                assert response.status_code == 403, (method, path)
        assert walked >= 13

    async def test_with_somebody_elses_ids_everything_is_404_and_nothing_changes(
        self, alice: Client, bob: Client, document: dict[str, Any], ids: dict[str, Any]
    ) -> None:
        before = await everything_of(alice, ids)
        walked = 0
        for method, path, operation in guarded(document):
            if any(f"{{{name}}}" in path for name in ids):
                walked += 1
                response = await asked(bob, operation, method, url_of(path, bob.user_id, ids))
                assert response.status_code == 404, (method, path)
        assert walked >= 9
        assert (await bob.chat("say Hello.", ids["conversation_id"])).status_code == 404
        assert await everything_of(alice, ids) == before

    async def test_every_operation_answers_as_documented(
        self, alice: Client, document: dict[str, Any], ids: dict[str, Any]
    ) -> None:
        # What is deleted is not there after, and what is erased least of all.
        depths = {path: path.count("/") for _, path, _ in guarded(document)}
        last = sorted(guarded(document), key=lambda each: (each[0] == "delete", -depths[each[1]]))
        for method, path, operation in last:
            response = await asked(alice, operation, method, url_of(path, alice.user_id, ids))
            documented = operation["responses"][str(response.status_code)]
            # Of Alice's one turn nothing is left to cancel, to answer or to take out of a queue, and no model is there to
            # sum up; test_turns.py, test_waiting.py, test_queue.py and test_summaries.py do.
            over = {"cancelTurn", "answerTurn", "unqueueTurn", "compactConversation"}
            ended = operation["operationId"] in over and response.status_code == 409
            assert response.status_code < 300 or ended, (method, path, response.text)
            expect_documented_headers(response, operation)
            if response.headers.get("content-type") == "application/x-ndjson":
                assert [json.loads(line)["record"] for line in response.text.splitlines()][-1] == "end"
            elif response.content and "*/*" not in documented.get("content", {}):
                schema = documented["content"][response.headers["content-type"]]["schema"]
                jsonschema.validate(response.json(), {**schema, "components": document["components"]})

    async def test_replays_streams_and_parts_of_files_have_the_headers_that_are_documented(
        self, alice: Client, document: dict[str, Any], ids: dict[str, Any]
    ) -> None:
        found = {each["operationId"]: (method, path, each) for method, path, each in guarded(document)}
        keys = [{"Idempotency-Key": uuid4().hex} for _ in range(2)]
        chat, response = BODIES["chat"], BODIES["createResponse"]
        sent: list[tuple[str, dict[str, str], Any, int, str]] = [
            ("chat", keys[0], chat, 200, ""),
            ("chat", keys[0], chat, 200, "Idempotent-Replayed"),
            ("chat", {**keys[0], "Accept": "text/event-stream"}, chat, 200, "Idempotent-Replayed"),
            ("chat", {"Accept": "text/event-stream"}, chat, 200, "x-vercel-ai-ui-message-stream"),
            ("createResponse", keys[1], response, 200, ""),
            ("createResponse", keys[1], response, 200, "Idempotent-Replayed"),
            ("createResponse", {}, {**response, "stream": True}, 200, "X-Accel-Buffering"),
            ("readFile", {"Range": "bytes=1-2"}, None, 206, "Content-Range"),
            ("readFile", {"Range": "bytes=9-"}, None, 416, "Content-Range"),
            ("readFile", {"If-None-Match": "*"}, None, 304, "ETag"),
        ]
        for operation_id, headers, body, status, told in sent:
            method, path, operation = found[operation_id]
            url = url_of(path, alice.user_id, ids)
            answer = await alice.request(method, url, json=body, headers=headers)
            assert answer.status_code == status, (operation_id, answer.text)
            assert not told or told in answer.headers, (operation_id, told)
            expect_documented_headers(answer, operation)


def expect_documented_headers(response: httpx.Response, operation: dict[str, Any]) -> None:
    documented = operation["responses"][str(response.status_code)]["headers"]
    told = set(response.headers) - STANDARD
    assert told <= {name.lower() for name in documented}, operation["operationId"]
    assert told - NOT_FOR_PAGES <= {name.lower() for name in EXPOSED}, operation["operationId"]
    always = {name.lower() for name, header in documented.items() if header.get("required")}
    assert always <= set(response.headers), operation["operationId"]


async def everything_of(client: Client, ids: dict[str, Any]) -> list[Any]:
    paths = [
        "/tasks",
        "/conversations",
        "/keys",
        f"/conversations/{ids['conversation_id']}/messages",
        f"/files/{ids['file_id']}",
    ]
    return [(await client.get(client.mine(path))).text for path in paths]


class TestSwaggerUI:
    async def test_is_served_from_local_files_alone(self, service: str) -> None:
        async with anybody(service) as client:
            page = await client.get("/docs")
            assert page.status_code == 200
            assert "://" not in page.text
            assets = re.findall(r"/docs/assets/[^\"]+", page.text)
            assert len(assets) == 6
            for path in assets:
                asset = await client.get(path)
                assert asset.status_code == 200
                assert asset.headers["Cache-Control"] == "max-age=3600, public"
            assert "SwaggerUIBundle(" in (await client.get("/docs/assets/docs.js")).text
