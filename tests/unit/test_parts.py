"""The parts of a message: what was streamed is what is stored, and what is streamed again."""

from collections.abc import Sequence

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from chatapi.agent.ports import ToolCall
from chatapi.parts import Part, UIPart, outlined, reasoning_of, shown, usual
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent, text_of
from chatapi.turns.replay import events_of, joined, rest_of
from chatapi.turns.ui_stream import parts_of
from tests.support.turns import calls_of, events_of_a_turn

TURNS = st.integers(min_value=0).map(events_of_a_turn)


def stored(events: Sequence[TurnEvent]) -> tuple[list[Part] | None, str, list[ToolCall]]:
    """As a row has it, JSON and back."""
    content, calls = text_of(events), calls_of(events)
    outline = outlined(parts_of(joined(events)), content, calls)
    return msgspec.json.decode(msgspec.json.encode(outline), type=list[Part] | None), content, calls


def streamed(events: Sequence[TurnEvent]) -> list[UIPart]:
    """The parts of a stream, with the outcomes of their calls."""
    return shown(parts_of(events), "", calls_of(events))


@given(TURNS)
def test_what_is_shown_is_what_was_streamed(events: list[TurnEvent]) -> None:
    assert shown(*stored(events)) == streamed(events)


@given(TURNS)
def test_a_stream_made_of_what_is_stored_is_the_same(events: list[TurnEvent]) -> None:
    again = events_of(*stored(events))
    assert streamed(again) == streamed(events)


TWO_CALLS = [ToolCall(id=id_, name="list_tasks", arguments={}, result=[]) for id_ in "12"]
BETWEEN_OUTCOMES: list[TurnEvent] = [
    *(ToolStarted(id=call.id, name=call.name, arguments={}) for call in TWO_CALLS),
    ToolEnded(TWO_CALLS[0]),
    ReasoningAdded("Hm."),
    TextAdded("One."),
    ToolEnded(TWO_CALLS[1]),
]


@given(TURNS, st.integers(min_value=0))
@example(BETWEEN_OUTCOMES, 4)
def test_a_reader_elsewhere_gets_the_rest_from_what_is_stored(events: list[TurnEvent], cut: int) -> None:
    told = joined(events[: cut % (len(events) + 1)])
    rest = rest_of(events_of(*stored(events)), told)
    assert streamed([*told, *rest]) == streamed(events)


def test_text_and_calls_alone_need_no_outline() -> None:
    call = ToolCall(id="1", name="list_tasks", arguments={}, result=[])
    events: list[TurnEvent] = [
        ToolStarted(id="1", name="list_tasks", arguments={}, begins_step=True),
        ToolEnded(call),
        TextAdded("One", begins_step=True),
        TextAdded("."),
    ]
    assert stored(events) == (None, "One.", [call])
    assert stored([TextAdded("Hello.")]) == (None, "Hello.", [])
    assert usual("", []) == []


def test_text_and_results_are_stored_once() -> None:
    call = ToolCall(id="1", name="list_tasks", arguments={"status": "all"}, result=["a long result"])
    events: list[TurnEvent] = [
        ReasoningAdded("Hm."),
        TextAdded("Let me see."),
        ToolStarted(id="1", name="list_tasks", arguments={"status": "all"}),
        ToolEnded(call),
        TextAdded("Done."),
    ]
    outline, *_ = stored(events)
    assert msgspec.to_builtins(outline) == [
        {"type": "step"},
        {"type": "reasoning", "id": "1", "text": "Hm."},
        {"type": "text", "length": 11},
        {"type": "call", "id": "1"},
        {"type": "step"},
        {"type": "text", "length": 5},
    ]
    assert reasoning_of(outline) == "Hm."


def test_text_that_was_taken_back_as_reasoning_stays_shown_and_is_no_part_of_the_answer() -> None:
    events: list[TurnEvent] = [
        TextAdded("The user wants", begins_step=True),
        TextAdded(" a joke."),
        TextAdded("", was_reasoning=True),
        TextAdded("Knock, knock."),
    ]
    assert joined(events) == [
        TextAdded("The user wants a joke.", begins_step=True),
        TextAdded("", was_reasoning=True),
        TextAdded("Knock, knock."),
    ]
    outline, content, calls = stored(events)
    assert content == "Knock, knock."
    assert [part.get("text") for part in shown(outline, content, calls)] == [
        None,
        "The user wants a joke.",
        "Knock, knock.",
    ]
