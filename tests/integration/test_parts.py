"""A message read back is the message that the AI SDK's own client has assembled from its stream."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from chatapi.parts import RESULT_BYTES, outlined, shown
from chatapi.turns.log import TurnEvent, text_of
from chatapi.turns.replay import events_of, joined
from chatapi.turns.ui_stream import UIMessageChunks, parts_of, sse
from tests.support import ai_sdk
from tests.support.agents import CommandedAgent
from tests.support.ai_sdk import Driver
from tests.support.serving import Client
from tests.support.sse import STREAM
from tests.support.turns import calls_of, events_of_a_turn

needs_the_ai_sdk = pytest.mark.skipif(ai_sdk.missing() is not None, reason=str(ai_sdk.missing()))
ADD = 'call add_task {"title": "milk"}'
START = {"type": "start", "messageId": "turn_1"}


@pytest.fixture(scope="module")
async def driver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Driver]:
    async with ai_sdk.driver(tmp_path_factory.mktemp("parts")) as driver:
        yield driver


async def assembled(driver: Driver, stream: str) -> dict[str, Any]:
    """The message that the AI SDK's client makes of a stream."""
    state = await driver("parse", text=stream)
    return dict(state["message"])


async def stream_of(alice: Client, message: str, **options: Any) -> str:
    body = {"message": message, **options}
    return (await alice.post(alice.mine("/chat"), json=body, headers=STREAM)).text


async def shown_to(alice: Client, conversation_id: int, **query: Any) -> list[dict[str, Any]]:
    return await alice.messages(conversation_id, format="ui", **query)


@needs_the_ai_sdk
class TestReadBack:
    """Each is compared as JSON, as the AI SDK's documentation stores messages."""

    @pytest.mark.parametrize(
        "message",
        [
            "say Hello.",
            f"think Hm.\nsay Let me see.\n{ADD}\nmute list_tasks {{}}\nthink So.\nsay Done.",
            f"step\nthink Hm.\nstep\n{ADD}\nstep\nthink Well.\nsay One\nsay  more.",
            "mute add_task {}\nmute no_such_tool {}\nsay Neither worked.",
            "think Hm.\nsay Once upon\nfail",
            "think Nothing else.\nfail",
            "say Cut.\nfinish length",
        ],
    )
    async def test_is_what_was_streamed(self, driver: Driver, alice: Client, message: str) -> None:
        live = await assembled(driver, await stream_of(alice, message))
        ids = live["metadata"]
        question, answer = await shown_to(alice, ids["conversation_id"])
        assert answer == live
        known = ("conversation_id", "turn_id", "status")
        assert question == {
            "id": f"question_{ids['turn_id']}",
            "role": "user",
            "parts": [{"type": "text", "text": message}],
            "metadata": {name: ids[name] for name in known if name in ids},
        }
        again = await alice.get(
            alice.mine(f"/chat/{ids['conversation_id']}/stream"), params={"turn_id": ids["turn_id"]}
        )
        assert await assembled(driver, again.text) == live

    async def test_after_a_cancel_in_the_middle_of_a_step(self, driver: Driver, alice: Client) -> None:
        gate = CommandedAgent.gates[alice.user_id]
        message = f"think Hm.\nsay Once\n{ADD}\nthink More\ngate {alice.user_id}\nsay never."
        async with alice.stream(
            "POST", alice.mine("/chat"), json={"message": message}, headers=STREAM
        ) as response:
            lines = response.aiter_lines()
            first = await anext(lines)
            start = json.loads(first.removeprefix("data: "))["messageMetadata"]
            await gate.reached.wait()
            await alice.post(alice.mine(f"/turns/{start['turn_id']}/cancel"))
            rest = [line async for line in lines]
        live = await assembled(driver, "\n".join([first, *rest]))
        _, answer = await shown_to(alice, start["conversation_id"])
        assert answer == live
        assert live["metadata"]["status"] == "cancelled"
        assert live["parts"][-1] == {"type": "reasoning", "id": "4", "text": "More", "state": "done"}

    async def test_of_any_turn(self, driver: Driver) -> None:
        """Whatever an agent does: calls in parallel, texts between them, text that turns out to be reasoning."""
        for seed in range(150):
            events = events_of_a_turn(seed)
            content, calls = text_of(events), calls_of(events)
            outline = outlined(parts_of(joined(events)), content, calls)
            live = (await assembled(driver, finished(events))).get("parts", [])
            assert shown(outline, content, calls) == live, seed
            again = await assembled(driver, finished(events_of(outline, content, calls)))
            assert again.get("parts", []) == live, seed


def finished(events: Sequence[TurnEvent]) -> str:
    chunks = UIMessageChunks()
    told = [chunk for event in events for chunk in chunks.of(event)]
    return sse([START, *told, *chunks.at_end(None, turn_ended=False), {"type": "finish"}]).decode()


class TestPlainForm:
    async def test_has_the_reasoning(self, alice: Client) -> None:
        answer = await alice.said("think Hm.\nsay Let me see.\nstep\nthink So.\nsay  Done.")
        question, stored = await alice.messages(answer["conversation_id"])
        assert (question["reasoning"], stored["reasoning"]) == (None, "Hm.\n\nSo.")
        assert stored["content"] == answer["response"] == "Let me see. Done."

    async def test_of_an_answer_without_any_has_none(self, alice: Client) -> None:
        answer = await alice.said("say Hello.")
        _, stored = await alice.messages(answer["conversation_id"])
        assert stored["reasoning"] is None


class TestLongResults:
    async def test_are_bounded_where_they_are_shown_and_whole_in_the_journal(
        self, driver: Driver, alice: Client
    ) -> None:
        for number in range(3):
            body = {"title": f"task {number}", "description": "\N{SNOWMAN}" * 2_000}
            for _ in range(15):
                assert (await alice.post(alice.mine("/tasks"), json=body)).status_code == 201
        live = await assembled(driver, await stream_of(alice, "mute list_tasks {}\nsay Many."))
        conversation_id = live["metadata"]["conversation_id"]
        _, answer = await shown_to(alice, conversation_id)
        assert answer == live
        shown_result = live["parts"][1]["output"]
        assert shown_result["bytes"] > RESULT_BYTES
        assert shown_result["beginning"].startswith('{"items":[')
        (plain,) = (await alice.messages(conversation_id))[1]["tool_calls"]
        assert plain["result"] == shown_result
        records = [json.loads(line) for line in (await alice.get(alice.mine("/export"))).text.splitlines()]
        (journaled,) = (each for each in records if each["record"] == "tool_call")
        assert len(journaled["result"]["items"]) == 45


class TestForm:
    async def test_pages_and_alternatives_are_as_in_the_plain_form(self, alice: Client) -> None:
        first = await alice.said("say 0")
        conversation_id = first["conversation_id"]
        second = await alice.said("say 1", conversation_id)
        await alice.post(alice.mine(f"/turns/{second['turn_id']}/regenerate"))
        page = (
            await alice.get(
                alice.mine(f"/conversations/{conversation_id}/messages"),
                params={"format": "ui", "order": "desc", "limit": 2},
            )
        ).json()
        assert [each["role"] for each in page["items"]] == ["assistant", "user"]
        assert page["next_cursor"] is not None
        both = await shown_to(alice, conversation_id, alternatives=True)
        assert len(both) == 6

    async def test_another_is_422(self, alice: Client) -> None:
        answer = await alice.said("say Hello.")
        response = await alice.get(
            alice.mine(f"/conversations/{answer['conversation_id']}/messages"), params={"format": "xml"}
        )
        assert response.status_code == 422
