"""Items and events of responses: the same, however a turn's events are grouped and wherever they come from."""

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import Gauge

from chatapi.agent.ports import ToolCall
from chatapi.db.models import now
from chatapi.errors.turns import Restarting, TurnCancelled
from chatapi.openai_api.items import TurnItems, items_of
from chatapi.openai_api.response_events import ResponseEvents, ResponseStream, Words
from chatapi.openai_api.response_objects import Facts
from chatapi.parts import Approval, Part, outlined
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent, TurnLog, text_of
from chatapi.turns.replay import events_of, joined, rest_of
from chatapi.turns.ui_stream import parts_of
from tests.support.turns import WORDS, calls_of, events_of_a_turn

WAITS = 3


def events_with_waits(seed: int) -> list[TurnEvent]:
    """A turn that waits up to three times, for approvals and for its caller, and says something between the answers."""
    chance = Random(seed)
    events = events_of_a_turn(seed)
    for wait in range(1, chance.randrange(WAITS + 1) + 1):
        asked: list[ToolStarted] = []
        for place in range(chance.randrange(1, 4)):
            call = ToolStarted(id=f"ask_{wait}_{place}", name="delete_task", arguments={"id": place})
            if chance.random() < 0.2:
                events.append(call)  # it turns out to need an answer while it is made
            if chance.random() < 0.5:
                approval = Approval(f"approval_{call.id}", approved=chance.random() < 0.7)
                asked.append(replace(call, asks="approval", approval=approval))
            else:
                asked.append(replace(call, asks="client-tool"))
        events += asked
        for call in asked:
            outcome = ToolCall(id=call.id, name=call.name, arguments=call.arguments, result="done")
            events.append(ToolEnded(outcome, wait))
            if chance.random() < 0.5:
                events.append(TextAdded(chance.choice(WORDS)))
        more = events_of_a_turn(chance.randrange(2**32))
        events += [renamed(event, str(wait)) for event in more]
    return events


def renamed(event: TurnEvent, suffix: str) -> TurnEvent:
    match event:
        case ToolStarted(id=id_):
            return replace(event, id=id_ + suffix)
        case ToolEnded(call=call):
            return replace(event, call=replace(call, id=call.id + suffix))
    return event


TURNS = st.integers(min_value=0).map(events_with_waits)


def stored(events: Sequence[TurnEvent]) -> list[TurnEvent]:
    """The events as they are made again from the row of the turn's message."""
    content, calls = text_of(events), calls_of(events)
    outline = outlined(parts_of(joined(events)), content, calls)
    again = msgspec.json.decode(msgspec.json.encode(outline), type=list[Part] | None)
    return events_of(again, content, calls)


def streams(events: Sequence[TurnEvent]) -> list[bytes]:
    """The streams of all responses of the turn."""
    items = TurnItems(7)
    told = [each for event in events for each in items.take(event)] + list(items.end())
    writers = [ResponseEvents() for _ in range(WAITS + 1)]
    texts = [b""] * (WAITS + 1)
    for each in told:
        texts[each.item.wait] += writers[each.item.wait].of(each)
    return texts


def letters(event: TurnEvent) -> list[TurnEvent]:
    """A text letter by letter."""
    if not isinstance(event, TextAdded | ReasoningAdded) or not event.text:
        return [event]
    return [type(event)(letter, event.begins_step and place == 0) for place, letter in enumerate(event.text)]


@settings(deadline=None)
@given(TURNS, st.integers(min_value=0))
def test_each_event_has_the_same_number_wherever_it_is_read(events: list[TurnEvent], cut: int) -> None:
    live = streams(events)
    assert streams(joined(events)) == live
    assert streams(stored(events)) == live
    told = joined(events[: cut % (len(events) + 1)])
    assert streams([*told, *rest_of(stored(events), told)]) == live
    assert streams([piece for event in events for piece in letters(event)]) == live


@settings(deadline=None)
@given(st.text(), st.lists(st.integers(min_value=0, max_value=40)))
def test_a_text_is_cut_into_the_same_words_whatever_pieces_it_came_in(text: str, sizes: list[int]) -> None:
    whole = Words()
    words = whole.take(text) + whole.end()
    assert "".join(words) == text
    assert all(0 < len(word) <= 16 for word in words)
    pieces, place = [], 0
    for size in [*sizes, len(text)]:
        pieces.append(text[place : place + size])
        place += size
    again = Words()
    assert [word for piece in pieces for word in again.take(piece)] + again.end() == words


@settings(deadline=None)
@given(TURNS, st.integers(min_value=-1, max_value=40))
def test_a_reader_that_goes_on_after_a_number_gets_the_rest(events: list[TurnEvent], after: int) -> None:
    items = TurnItems(7)
    told = [each for event in events for each in items.take(event)] + list(items.end())
    all_, rest = ResponseEvents(), ResponseEvents(after=after)
    whole = b"".join(all_.of(each) for each in told)
    assert b"".join(rest.of(each) for each in told) == b"".join(
        each + b"\n\n" for each in whole.split(b"\n\n")[after + 1 : -1]
    )
    numbers = [
        msgspec.json.decode(each.partition(b"data: ")[2])["sequence_number"]
        for each in whole.split(b"\n\n")[:-1]
    ]
    assert numbers == list(range(len(numbers)))


def types_of(stream: bytes) -> list[str]:
    return [msgspec.json.decode(each.partition(b"data: ")[2])["type"] for each in stream.split(b"\n\n")[:-1]]


def test_the_items_of_a_turn_that_has_waited() -> None:
    asked = Approval("approval_c", approved=True)
    deleted = ToolCall(id="c", name="delete_task", arguments={"id": 1}, result={"deleted": 1})
    zone = ToolCall(id="z", name="time_zone", arguments={}, result="UTC")
    events: list[TurnEvent] = [
        ReasoningAdded("Hm.", begins_step=True),
        TextAdded("Let me "),
        TextAdded("see."),
        ToolStarted(id="l", name="list_tasks", arguments={}),
        ToolEnded(ToolCall(id="l", name="list_tasks", arguments={}, error="No.")),
        ToolStarted(id="c", name="delete_task", arguments={"id": 1}, asks="approval", approval=asked),
        ToolStarted(id="z", name="time_zone", arguments={}, asks="client-tool"),
        ToolEnded(deleted, 1),
        ToolEnded(zone, 1),
        TextAdded("Done.", begins_step=True),
    ]
    items = items_of(7, events)
    assert [(item.id, item.wait) for item in items] == [
        ("rs_7_1", 0),
        ("msg_7_2", 0),
        ("mcp_7_3", 0),
        ("mcpr_7_4", 0),
        ("fc_7_5", 0),
        ("mcp_7_6", 1),
        ("msg_7_7", 1),
    ]
    bodies: list[dict[str, Any]] = [item.body for item in items]
    assert bodies[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert bodies[1]["content"][0] == {
        "type": "output_text",
        "text": "Let me see.",
        "annotations": [],
        "logprobs": [],
    }
    assert (bodies[2]["status"], bodies[2]["error"], bodies[2]["output"]) == ("failed", "No.", None)
    assert bodies[4]["call_id"] == "call_7_5"
    assert bodies[5] == {
        "id": "mcp_7_6",
        "type": "mcp_call",
        "status": "completed",
        "server_label": "chatapi",
        "name": "delete_task",
        "arguments": '{"id":1}',
        "output": '{"deleted":1}',
        "error": None,
        "approval_request_id": "mcpr_7_4",
    }
    first, second, *_ = streams(events)
    assert types_of(first)[:4] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
    ]
    assert types_of(second) == [
        "response.output_item.added",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]


def test_text_that_was_reasoning_ends_as_an_empty_message() -> None:
    """Final texts are what clients show, so the answer has no reasoning in it."""
    events: list[TurnEvent] = [
        TextAdded("The user wants a joke.", begins_step=True),
        TextAdded("", was_reasoning=True),
        TextAdded("Knock, knock."),
    ]
    said = [(item.kind, item.text) for item in items_of(7, events)]
    assert said == [("message", ""), ("reasoning", "The user wants a joke."), ("message", "Knock, knock.")]


def facts(wait: int = 0) -> Facts:
    return Facts(key=7, wait=wait, conversation_id=1, created_at=now(), shown={})


async def read(log: TurnLog, wait: int = 0) -> list[bytes]:
    stream = ResponseStream(log, facts(wait), after=-1)
    return [chunk async for chunk in stream.read(Gauge("streams", "", registry=None), 0.01)]


class TestStream:
    async def test_of_silence_is_comments(self) -> None:
        log = TurnLog(7, 1)
        stream = ResponseStream(log, facts()).read(Gauge("streams", "", registry=None), 0.001)
        chunks = [await anext(stream) for _ in range(3)]
        assert types_of(chunks[0]) == ["response.created", "response.in_progress"]
        assert chunks[1:] == [b": still here\n\n"] * 2
        log.add(TextAdded("Hello."))
        log.end(TurnCancelled())
        rest = [chunk async for chunk in stream if chunk != b": still here\n\n"]
        assert types_of(b"".join(rest))[-2:] == ["response.failed", "error"]
        assert log.readers == 0

    async def test_that_ends_before_its_response_says_an_error_alone_with_the_last_number(self) -> None:
        """So that a reader that goes on after it, elsewhere, misses nothing."""
        log = TurnLog(7, 1)
        log.add(TextAdded("Hello."))
        log.part(Restarting())
        *_, last = await read(log)
        error = msgspec.json.decode(last.partition(b"data: ")[2])
        assert (error["type"], error["code"], error["error"]["code"]) == ("error", "restarting", "restarting")
        before = b"".join((await read(log))[:-1])
        assert error["sequence_number"] == len(types_of(before)) - 1

    async def test_of_what_came_before_a_wait_ends_although_the_turn_goes_on(self) -> None:
        asked = ToolStarted(id="z", name="time_zone", arguments={}, asks="client-tool")
        log = TurnLog(7, 1, wait=1)  # the turn goes on, and has said nothing yet
        log.add(asked)
        assert types_of((await read(log))[-1])[-1] == "response.completed"
        ended = ToolCall(id="z", name="time_zone", arguments={}, result="UTC")
        log.add(ToolEnded(ended, 1), TextAdded("Done."))
        assert types_of((await read(log))[-1])[-1] == "response.completed"
        assert log.readers == 0
