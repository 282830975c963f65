"""Messages with files: what a turn takes, keeps and shows of them."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select

from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools
from chatapi.db.database import Database
from chatapi.db.models import File, Turn
from chatapi.db.owner import EVERYONE
from chatapi.files.schemas import FileRef, question_parts
from chatapi.files.service import FileService
from chatapi.files.storage import NoObject, Storage
from chatapi.offline import OfflineAgent
from tests.support.databases import open_database
from tests.support.files import parts, pdf, png, uploaded
from tests.support.serving import Client, serve, settings_for


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(settings_for(database_url))
    yield database
    await database.close()


async def send(
    client: Client, sent: list[dict[str, Any]], conversation_id: int | None = None, key: str | None = None
) -> httpx.Response:
    body = {"parts": sent, "conversation_id": conversation_id}
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(client.mine("/chat"), json=body, headers=headers)


async def said(
    client: Client, sent: list[dict[str, Any]], conversation_id: int | None = None
) -> dict[str, Any]:
    response = await send(client, sent, conversation_id)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ref(file: dict[str, Any]) -> dict[str, Any]:
    return {name: file[name] for name in ("id", "name", "media_type", "size")}


class TestSending:
    async def test_gives_the_agent_the_files_and_later_again(self, alice: Client) -> None:
        picture, text, document = (
            await uploaded(alice, png(), "a.png"),
            await uploaded(alice, b"milk", "b.md"),
            await uploaded(alice, pdf("Hello there", "Second page"), "c.pdf"),
        )
        seen = [["a.png", len(png())], ["b.md", "milk"]]
        first = await said(alice, parts("files", picture["id"], text["id"]))
        assert json.loads(first["response"]) == seen
        second = await said(alice, parts("files", document["id"]), first["conversation_id"])
        found = json.loads(second["response"])
        assert found == [*seen, ["c.pdf", "Hello there\n\nSecond page\n\n"]]
        plain = await alice.said("files", first["conversation_id"])
        assert json.loads(plain["response"]) == found

    async def test_shows_them_with_the_message(self, alice: Client) -> None:
        files = [await uploaded(alice, png(), "a.png"), await uploaded(alice, b"milk", "b.md")]
        answer = await said(alice, parts(None, *(file["id"] for file in files)))
        question, reply = await alice.messages(answer["conversation_id"])
        assert (question["content"], question["files"], reply["files"]) == (
            "",
            [ref(file) for file in files],
            [],
        )
        records = [json.loads(line) for line in (await alice.get(alice.mine("/export"))).text.splitlines()]
        exported = [record for record in records if record["record"] == "message"]
        assert [record["files"] for record in exported] == [[ref(file) for file in files], None]
        assert {record["turn_id"] for record in records if record["record"] == "file"} == {answer["turn_id"]}

    async def test_of_text_alone_is_the_same_as_a_message(self, alice: Client) -> None:
        key = uuid4().hex
        first = await send(
            alice, [{"type": "text", "text": "say 1"}, {"type": "text", "text": "say 2"}], key=key
        )
        assert first.json()["response"] == "1You said: 2"
        again = await alice.post(
            alice.mine("/chat"), json={"message": "say 1\n\nsay 2"}, headers={"Idempotency-Key": key}
        )
        assert again.headers["Idempotent-Replayed"] == "true"

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({}, "`message`, or `parts` in its place"),
            ({"message": "x", "parts": [{"type": "text", "text": "x"}]}, "parts: is there beside `message`"),
            ({"parts": []}, "parts: Expected `array` of length >= 1"),
            ({"parts": [{"type": "text", "text": " "}]}, "parts[0].text: must not be blank"),
            (
                {"parts": [{"type": "text", "text": "x" * 6_000}] * 2},
                "parts: has more than 10,000 characters",
            ),
            ({"parts": [{"type": "file", "file_id": "1"}]}, "parts[0].file_id: Expected `int`"),
            ({"parts": [{"type": "file", "url": "https://example.com/a.png"}]}, "parts[0]"),
            ({"parts": [{"type": "image", "file_id": 1}]}, "parts[0].type: Invalid value 'image'"),
            ({"parts": [{"type": "file", "file_id": 1}] * 2}, "parts: names a file twice"),
            (
                {"parts": [{"type": "file", "file_id": n} for n in range(1, 10)]},
                "parts: has 9 files; a message takes 8",
            ),
            ({"message": "x", "files": [1]}, "upload files first"),
        ],
    )
    async def test_badly_is_422_and_says_what_to_mend(
        self, alice: Client, body: dict[str, Any], words: str
    ) -> None:
        response = await alice.post(alice.mine("/chat"), json=body)
        assert response.status_code == 422, response.text
        assert words in response.json()["detail"]
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []

    async def test_of_what_is_not_there_or_somebody_elses_is_404_and_nothing_begins(
        self, alice: Client, bob: Client
    ) -> None:
        own, theirs = await uploaded(alice, b"x"), await uploaded(bob, b"x")
        await alice.delete(alice.mine(f"/files/{own['id']}"))
        for file_id in (own["id"], theirs["id"], 2**62):
            response = await send(alice, parts("say Hello.", file_id))
            assert (response.status_code, response.json()["type"]) == (
                404,
                "urn:chatapi:problem:file-not-found",
            )
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []
        assert (await bob.get(bob.mine(f"/files/{theirs['id']}"))).status_code == 200

    async def test_again_is_for_its_conversation_and_for_turns_that_failed(self, alice: Client) -> None:
        file = await uploaded(alice, b"milk", "a.txt")
        failed = await send(alice, parts("fail", file["id"]))
        assert failed.status_code == 502
        answer = await said(alice, parts("files", file["id"]))
        assert answer["conversation_id"] != failed.json()["conversation_id"]
        again = await said(alice, parts("files", file["id"]), answer["conversation_id"])
        assert json.loads(again["response"]) == [["a.txt", "milk"]] * 2
        elsewhere = await send(alice, parts("files", file["id"]))
        assert elsewhere.status_code == 422
        assert f"parts: file {file['id']} belongs to another conversation" in elsewhere.json()["detail"]

    async def test_with_a_key_replays_though_the_file_is_gone(self, alice: Client) -> None:
        file, key = await uploaded(alice, b"milk"), uuid4().hex
        first = await send(alice, parts("files", file["id"]), key=key)
        await alice.delete(alice.mine(f"/files/{file['id']}"))
        again = await send(alice, parts("files", file["id"]), key=key)
        assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
        other = await send(alice, parts("say Else.", file["id"]), key=key)
        assert other.json()["type"] == "urn:chatapi:problem:idempotency-key-reused"

    async def test_with_a_key_runs_a_failed_turn_with_its_files(self, alice: Client) -> None:
        file, key = await uploaded(alice, b"milk", "a.txt"), uuid4().hex
        sent = parts("once fail\nfiles", file["id"])
        assert (await send(alice, sent, key=key)).status_code == 502
        answer = (await send(alice, sent, key=key)).json()
        assert json.loads(answer["response"]) == [["a.txt", "milk"]]

    async def test_anew_takes_the_files_along(self, alice: Client) -> None:
        kept, deleted = await uploaded(alice, b"milk", "a.txt"), await uploaded(alice, b"x", "b.txt")
        answer = await said(alice, parts("say Hello.", kept["id"], deleted["id"]))
        await alice.delete(alice.mine(f"/files/{deleted['id']}"))
        path = alice.mine(f"/turns/{answer['turn_id']}/regenerate")
        assert (await alice.post(path)).json()["response"] == "Hello."
        question, _ = await alice.messages(answer["conversation_id"])
        assert question["files"] == [ref(kept)]

    async def test_edited_has_the_files_that_the_edit_names(self, alice: Client) -> None:
        first, second = await uploaded(alice, b"milk", "a.txt"), await uploaded(alice, b"x", "b.txt")
        answer = await said(alice, parts("say Hello.", first["id"]))
        path = alice.mine(f"/turns/{answer['turn_id']}/regenerate")
        both = await alice.post(path, json={"parts": parts("files", first["id"], second["id"])})
        assert json.loads(both.json()["response"]) == [["a.txt", "milk"], ["b.txt", "x"]]
        none = await alice.post(path, json={"message": "files"})
        assert json.loads(none.json()["response"]) == []
        bad = await alice.post(path, json={"parts": parts("files", 2**62)})
        assert bad.status_code == 404


class TestDeletion:
    async def test_of_a_conversation_takes_its_files(
        self, alice: Client, database: Database, database_url: str
    ) -> None:
        settings = settings_for(database_url)
        storage = Storage(settings.files_url)
        file, other = await uploaded(alice, b"milk"), await uploaded(alice, b"x")
        answer = await said(alice, parts("say Hello.", file["id"]))
        await said(alice, parts("say Hello.", other["id"]))
        async with database.transaction(EVERYONE) as session:
            key = await session.scalar(select(File.key).where(File.id == file["id"]))
        await alice.delete(alice.mine(f"/conversations/{answer['conversation_id']}"))
        assert (await alice.get(alice.mine(f"/files/{file['id']}"))).status_code == 404
        assert (await send(alice, parts("say Hello.", file["id"]))).status_code == 404
        await FileService(database, storage, settings).sweep()
        async with database.transaction(EVERYONE) as session:
            assert await session.scalar(select(File.id).where(File.key == key)) is None
        with pytest.raises(NoObject):
            await storage.read(str(key), 0, 1)
        assert (await alice.get(alice.mine(f"/files/{other['id']}"))).status_code == 200

    async def test_of_a_file_leaves_its_name_in_the_message(self, alice: Client) -> None:
        file = await uploaded(alice, b"milk", "a.txt")
        answer = await said(alice, parts("say Hello.", file["id"]))
        await alice.delete(alice.mine(f"/files/{file['id']}"))
        question, _ = await alice.messages(answer["conversation_id"])
        assert question["files"] == [ref(file)]


class PlainAgent:
    """An assistant of somebody's own that was written before there were files."""

    model = "plain"

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        yield TextDelta(str(len(prompt.files)))


class TestSupport:
    async def test_an_agent_that_takes_no_files_gets_none(
        self, alice: Client, database: Database, database_url: str
    ) -> None:
        file = await uploaded(alice, png(), "a.png")
        async with serve(settings_for(database_url), PlainAgent()) as url, Client(url, alice.user_id) as here:
            response = await send(here, parts("x", file["id"]))
            assert (response.status_code, response.json()["type"]) == (
                422,
                "urn:chatapi:problem:file-not-supported",
            )
        async with database.transaction(EVERYONE) as session:
            assert await session.scalar(select(Turn.id).where(Turn.user_id == alice.user_id)) is None
        told = settings_for(database_url, chat_model_input="image")
        async with serve(told, PlainAgent()) as url, Client(url, alice.user_id) as here:
            assert (await said(here, parts("x", file["id"])))["response"] == "1"
            document = await uploaded(here, pdf("x"), "a.pdf")
            response = await send(here, parts("x", document["id"]))
            assert response.json()["detail"] == "a.pdf is application/pdf, which plain does not take."


class TestOfflineAssistant:
    async def test_says_what_it_was_given_and_adds_the_lists_in_it(
        self, alice: Client, database_url: str
    ) -> None:
        async with (
            serve(settings_for(database_url), OfflineAgent()) as url,
            Client(url, alice.user_id) as here,
        ):
            text = await uploaded(
                here, b"# Shopping\n- milk\n- [x] eggs\n- [ ] bread\n\n1. call mom\n", "list.md"
            )
            picture = await uploaded(here, png(), "cat.png")
            first = await said(here, parts(None, text["id"], picture["id"]))
            assert first["response"] == (
                f'You gave me "list.md" (a text of 5 lines, 54 bytes) and "cat.png" (a picture, {len(png())} bytes). '
                "I can't look into pictures without a model. "
                'Say "add these to my tasks", and I add what is listed there.'
            )
            added = await here.said("add these to my tasks", first["conversation_id"])
            assert added["response"].startswith('Added "milk", "bread" and "call mom"')
            assert len((await here.get(here.mine("/tasks"))).json()["items"]) == 3

    async def test_refuses_a_document_without_text(self, alice: Client, database_url: str) -> None:
        async with (
            serve(settings_for(database_url), OfflineAgent()) as url,
            Client(url, alice.user_id) as here,
        ):
            for content, words in ((pdf(""), "it has none"), (b"%PDF-1.4\n1 0 obj\n", "it is broken")):
                file = await uploaded(here, content, "scan.pdf")
                response = await send(here, parts("What is this?", file["id"]))
                assert response.json()["type"] == "urn:chatapi:problem:file-not-supported"
                assert words in response.json()["detail"]


def test_the_parts_of_a_question_are_those_of_the_sdk() -> None:
    file = FileRef(id=7, name="a.png", media_type="image/png", size=1)
    assert question_parts("a b", "Look!", [file]) == [
        {"type": "file", "mediaType": "image/png", "filename": "a.png", "url": "/api/a%20b/files/7"},
        {"type": "text", "text": "Look!"},
    ]
