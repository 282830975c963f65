"""Lists in files, as the offline assistant finds them."""

from typing import Any

import pytest

from chatapi.agent.ports import File, HistoryMessage, Prompt, TextDelta
from chatapi.files.schemas import FileRef
from chatapi.offline.assistant import NO_LIST, OfflineAgent
from chatapi.offline.files import titles_in, wants_them_added
from tests.unit.test_offline_conversation import FakeTools


class Source:
    def __init__(self, text: str) -> None:
        self._text = text

    async def read(self, file: FileRef) -> bytes:
        raise AssertionError("nobody asked for bytes")

    async def text(self, file: FileRef) -> str:
        return self._text


def file(text: str, media_type: str = "text/plain", name: str = "list.txt") -> File:
    return File(id=1, name=name, media_type=media_type, size=len(text), source=Source(text))


LISTS: dict[str, tuple[str, str, list[str]]] = {
    "lines": ("text/plain", "milk\n\nbread.\n", ["milk", "bread"]),
    "bullets among prose": (
        "text/markdown",
        "# Shopping\nWe need:\n\n* milk\n  - oat milk\n1. bread\n2) eggs\n",
        ["milk", "oat milk", "bread", "eggs"],
    ),
    "boxes": ("text/markdown", "- [ ] milk\n- [x] bread\n- [X] eggs\n[] rice\n", ["milk", "rice"]),
    "a column": ("text/csv", "milk,2\nbread,1\n", ["milk", "bread"]),
    "a named column": ("text/csv", 'id;title;done\n1;"milk; fresh";0\n2;bread;1\n', ["milk; fresh", "bread"]),
    "texts": ("application/json", '["milk", "bread", 3, null]', ["milk", "bread"]),
    "objects": (
        "application/json",
        '{"v": 1, "tasks": [{"title": "milk"}, {"name": "bread"}, {}]}',
        ["milk", "bread"],
    ),
    "a number": ("application/json", "3", []),
    "headings alone": ("text/markdown", "# A\n## B\n", []),
    "a picture": ("image/png", "", []),
}


@pytest.mark.parametrize("kind", LISTS)
async def test_finds_the_items_of(kind: str) -> None:
    media_type, text, titles = LISTS[kind]
    assert list(await titles_in([file(text, media_type)])) == titles


@pytest.mark.parametrize(
    "message",
    [
        "Add these to my tasks",
        "add these to my tasks, please.",
        "please add them all to my list",
        "can you add everything in the file to my to-do list",
        "Put these on my list!",
        "add it",
        "import this file",
        "add the items in this list to my tasks",
        "make tasks of these",
        "turn this into tasks",
        "add all of these as tasks",
    ],
)
def test_understands(message: str) -> None:
    assert wants_them_added(message)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "add milk",
        "what is this?",
        "add milk to my list",
        "delete these",
        "add this to the garden of my aunt",
    ],
)
def test_does_not_take_for_it(message: str) -> None:
    assert not wants_them_added(message)


async def answer(prompt: Prompt, tools: FakeTools) -> str:
    said = [event async for event in OfflineAgent().reply(prompt, tools)]
    return "".join(event.text for event in said if isinstance(event, TextDelta))


def prompt(message: str, *files: File, history: Any = ()) -> Prompt:
    return Prompt(user_id="u", conversation_id=1, message=message, files=files, history=history)


async def test_adds_them_at_once_or_in_a_later_message() -> None:
    for later in (False, True):
        tools = FakeTools()
        listed = file("- milk\n- bread\n")
        sent = HistoryMessage(role="user", content="", files=[listed])
        asked = prompt("add these", history=[sent]) if later else prompt("add these", listed)
        assert await answer(asked, tools) == 'Added "milk" and "bread".'
        assert [task["title"] for task in tools.tasks.values()] == ["milk", "bread"]


async def test_says_when_there_is_no_list() -> None:
    assert await answer(prompt("add these", file("# Nothing", "text/markdown")), FakeTools()) == NO_LIST


async def test_says_what_it_was_given_and_then_does_what_is_asked() -> None:
    tools = FakeTools()
    said = await answer(prompt("add eggs", file("milk\n")), tools)
    assert said == (
        'You gave me "list.txt" (a text of 1 line, 5 bytes). Say "add these to my tasks", and I add what is listed '
        'there.\nAdded "eggs".'
    )


async def test_takes_no_more_than_a_person_would_have_meant() -> None:
    tools = FakeTools()
    said = await answer(prompt("add these", file("\n".join(f"item {n}" for n in range(200)))), tools)
    assert "at most 50, so I added none" in said
    assert tools.tasks == {}
