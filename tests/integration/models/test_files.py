"""Files on their way to models: each format's own parts, and what is shown to a model that cannot take them."""

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from pydantic_ai import Agent as Pydantic
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from chatapi.agent import inputs
from chatapi.agent.ports import File, HistoryMessage
from chatapi.agent.providers import candidate
from chatapi.agent.pydantic_ai import PydanticAgent
from chatapi.errors.files import FileNotFound, FileNotSupported
from chatapi.files.schemas import FileRef
from tests.integration.models.conftest import serving
from tests.support.files import parts, pdf, png, uploaded
from tests.support.providers.caches import unmarked
from tests.support.providers.server import Providers
from tests.support.serving import Client, serve, settings_for

DOCUMENT = pdf("Hello there")
EMBEDDED = {"png": base64.b64encode(png()).decode(), "pdf": base64.b64encode(DOCUMENT).decode()}
LIST = '<file name="list.md" type="text/markdown">\nmilk\n</file>'
# What arrives, format by format, of a picture, a PDF and a text, with the message "say Hello.".
SHOWN: dict[str, list[dict[str, Any]]] = {
    "openai:gpt-5-mini": [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{EMBEDDED['png']}"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{EMBEDDED['pdf']}"},
        },
        {"type": "text", "text": f"{LIST}\n\nsay Hello."},
    ],
    "openai-responses:gpt-5-mini": [
        {"type": "input_image", "image_url": f"data:image/png;base64,{EMBEDDED['png']}", "detail": "auto"},
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": f"data:application/pdf;base64,{EMBEDDED['pdf']}",
        },
        {"type": "input_text", "text": f"{LIST}\n\nsay Hello."},
    ],
    "google:gemini-3-pro": [
        {"inlineData": {"mimeType": "image/png", "data": EMBEDDED["png"]}},
        {"inlineData": {"mimeType": "application/pdf", "data": EMBEDDED["pdf"]}},
        {"text": f"{LIST}\n\nsay Hello."},
    ],
    "anthropic:claude-test": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": EMBEDDED["png"]}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": EMBEDDED["pdf"]},
            "title": "a.pdf",
        },
        {"type": "text", "text": f"{LIST}\n\nsay Hello."},
    ],
}


def users_messages(body: Mapping[str, Any]) -> list[Any]:
    """The contents of the users' messages in a request of any format."""
    messages = body.get("messages") or body.get("input") or body["contents"]
    return [
        each.get("content", each.get("parts")) for each in unmarked(messages) if each.get("role") == "user"
    ]


async def send(
    client: Client, text: str | None, *files: int, conversation_id: int | None = None
) -> dict[str, Any]:
    body = {"parts": parts(text, *files), "conversation_id": conversation_id}
    response = await client.post(client.mine("/chat"), json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def all_kinds(client: Client) -> list[int]:
    """One file of each kind."""
    samples = ((png(), "a.png"), (DOCUMENT, "a.pdf"), (b"milk\n", "list.md"))
    return [(await uploaded(client, content, name))["id"] for content, name in samples]


@pytest.mark.parametrize("wire", SHOWN)
async def test_go_in_the_formats_own_parts_and_again_with_the_next_message(
    wire: str, providers: Providers, sqlite_url: str
) -> None:
    name = f"user-{uuid4().hex}"
    async with (
        serving(sqlite_url, wire, providers, chat_model_input="image,pdf") as url,
        Client(url, name) as client,
    ):
        first = await send(client, "say Hello.", *await all_kinds(client))
        assert first["response"] == "Hello."
        (shown,) = users_messages(providers.requests[-1].body)
        assert shown == SHOWN[wire]
        again = await client.said("say Goodbye.", first["conversation_id"])
        assert again["response"] == "Goodbye."
        before, _ = users_messages(providers.requests[-1].body)
        assert before == SHOWN[wire]
        assert providers.requests[-1].refused is None
        alone = await uploaded(client, png(), "b.png")
        await send(client, None, alone["id"], conversation_id=first["conversation_id"])
        assert len(users_messages(providers.requests[-1].body)[-1]) == 1  # no empty text beside it


async def test_that_a_model_cannot_see_are_refused_before_the_turn_begins(
    providers: Providers, sqlite_url: str
) -> None:
    """A PDF is shown as its text instead."""
    async with (
        serving(sqlite_url, "openai:some-model", providers) as url,
        Client(url, f"user-{uuid4().hex}") as client,
    ):
        picture, document, text = await all_kinds(client)
        asked = len(providers.requests)
        body = {"parts": parts("say Hello.", text, picture)}
        response = await client.post(client.mine("/chat"), json=body)
        assert (response.status_code, response.json()["type"]) == (
            422,
            "urn:chatapi:problem:file-not-supported",
        )
        assert response.json()["detail"] == "a.png is image/png, which openai:some-model does not take."
        assert len(providers.requests) == asked
        assert (await client.get(client.mine("/conversations"))).json()["items"] == []
        await send(client, "say Hello.", document, text)
        (shown,) = users_messages(providers.requests[-1].body)
        assert (
            shown
            == f'<file name="a.pdf" type="application/pdf">\nHello there\n</file>\n\n{LIST}\n\nsay Hello.'
        )


async def test_are_shown_by_that_model_of_several_which_takes_them(
    providers: Providers, sqlite_url: str
) -> None:
    async with (
        serving(sqlite_url, "openai:some-model,google:gemini-3-pro", providers) as url,
        Client(url, f"user-{uuid4().hex}") as client,
    ):
        picture, *_ = await all_kinds(client)
        await send(client, "say Hello.", picture)
        assert providers.requests[-1].path.startswith("/v1beta/models/gemini-3-pro")


async def test_go_to_an_agent_of_pydantic_ai_as_its_own_content(sqlite_url: str) -> None:
    seen: list[list[ModelMessage]] = []

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
        seen.append(messages)
        yield "Fine."

    agent = PydanticAgent(Pydantic(FunctionModel(stream_function=answer)), takes={"image"})
    async with (
        serve(settings_for(sqlite_url), agent) as url,
        Client(url, f"user-{uuid4().hex}") as client,
    ):
        first = await send(client, "What is this?", *await all_kinds(client))
        await client.said("And now?", first["conversation_id"])
    for messages in seen:
        picture, words = messages[0].parts[-1].content  # type: ignore[misc, union-attr]
        assert isinstance(picture, BinaryContent)
        assert (picture.data, picture.media_type) == (png(), "image/png")
        assert (
            words
            == f'<file name="a.pdf" type="application/pdf">\nHello there\n</file>\n\n{LIST}\n\nWhat is this?'
        )
    assert not any(isinstance(part, TextPart) for part in seen[0][-1].parts)
    assert isinstance(seen[1][1], ModelResponse)


class Source:
    """Files in memory; a text that begins with `!` cannot be read."""

    def __init__(self, contents: dict[int, bytes]) -> None:
        self.contents = contents

    async def read(self, file: FileRef) -> bytes:
        if file.id not in self.contents:
            raise FileNotFound(file.id)
        return self.contents[file.id]

    async def text(self, file: FileRef) -> str:
        text = (await self.read(file)).decode()
        if text.startswith("!"):
            raise FileNotSupported("It cannot be read.")
        return text


async def test_of_earlier_messages_are_shown_within_bounds_the_newest_first() -> None:
    source = Source({1: b"old", 2: b"new", 4: b"!", 5: b"now"})

    def file(number: int, media_type: str = "image/png", size: int = 10) -> File:
        return File(id=number, name=f"{number}", media_type=media_type, size=size, source=source)

    half = inputs.HISTORY_BYTES // 2
    history = [
        HistoryMessage(role="user", content="", files=[file(1, size=half), file(7, "text/plain")]),
        HistoryMessage(
            role="user",
            content="",
            files=[
                file(2, size=half),
                file(3, "text/plain"),
                file(4, "application/pdf"),
                file(6, "image/gif"),
            ],
        ),
    ]
    shown = await inputs.shown_files([file(5)], history, {"image/png"})
    assert shown[5] == inputs.Attached(name="5", media_type="image/png", data=b"now")
    assert shown[2] == inputs.Attached(name="2", media_type="image/png", data=b"new")
    assert (shown[1], shown[7]) == tuple(f"[The file {n} was shown here before.]" for n in (1, 7))
    assert shown[3] == "[The file 3 was shown here, and has been deleted.]"
    assert shown[6] == "[The file 6 is here, and you cannot see it.]"
    assert shown[4] == "[The file 4 is here, and you cannot see it.]"
    with pytest.raises(FileNotSupported):
        await inputs.shown_files([file(4, "application/pdf")], [], {"image/png"})


@pytest.mark.parametrize(
    ("model", "elsewhere", "images", "documents"),
    [
        ("openai:gpt-5-mini", False, True, True),
        ("openai:gpt-4o", False, True, True),
        ("openai:gpt-4.1-nano", False, True, True),
        ("openai:gpt-4-turbo", False, True, False),
        ("openai:gpt-4", False, False, False),
        ("openai:gpt-3.5-turbo", False, False, False),
        ("openai:o3-mini", False, False, False),
        ("openai-responses:o4-mini", False, True, True),
        ("openai:gpt-oss-120b", True, False, False),
        ("openai:openai/gpt-5", True, True, False),
        ("openai:anthropic/claude-sonnet-4.5", True, True, False),
        ("openai:qwen2.5-vl-72b-instruct", True, True, False),
        ("openai:Qwen/Qwen3-VL-8B", True, True, False),
        ("openai:qwen3-32b", True, False, False),
        ("openai:gemma-3-27b-it", True, True, False),
        ("openai:gemma3:1b", True, False, False),
        ("openai:llama-3.2-90b-vision", True, True, False),
        ("openai:llama-3.3-70b", True, False, False),
        ("openai:deepseek-chat", True, False, False),
        ("google:gemini-2.5-flash", False, True, True),
        ("google:gemini-2.5-flash", True, True, True),
        ("anthropic:claude-haiku-4-5", False, True, True),
        ("anthropic:claude-2.1", False, False, False),
        ("anthropic:deepseek-chat", True, False, False),
    ],
)
def test_what_a_model_takes(model: str, *, elsewhere: bool, images: bool, documents: bool) -> None:
    keys = {"openai_api_key": "k", "gemini_api_key": "k", "anthropic_api_key": "k"}
    urls = dict.fromkeys(("openai_base_url", "gemini_base_url", "anthropic_base_url"), "http://localhost")
    settings = settings_for("sqlite:///unused", **keys, **(urls if elsewhere else {}))
    takes = candidate(model, settings).takes
    assert ("image/png" in takes, "application/pdf" in takes) == (images, documents)
    assert ("image/gif" in takes) == (images and not model.startswith("google"))
    told = settings_for("sqlite:///unused", **keys, chat_model_input="pdf")
    assert candidate(model, told).takes == {"application/pdf"}
