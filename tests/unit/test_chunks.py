"""The stored form of chunks, which replicas of the version before read, too."""

from typing import Any

import msgspec
from msgspec import Struct

from chatapi.agent.ports import ToolCall
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent, TurnLog
from chatapi.turns.store import live

CALL = ToolCall(id="1", name="list_tasks", arguments={}, result=[])


class TextDelta(Struct, frozen=True, tag=True):
    """As version 0.1.0 reads it; so do the structs below."""

    text: str


class ReasoningDelta(Struct, frozen=True, tag=True):
    text: str


class OldToolStarted(Struct, frozen=True, kw_only=True, tag="ToolStarted"):
    id: str
    name: str
    arguments: dict[str, Any]


class OldToolEnded(Struct, frozen=True, tag="ToolEnded"):
    call: ToolCall


def stored(events: list[TurnEvent]) -> list[dict[str, Any]]:
    chunk = live.Chunk(turn_id=1, run_id="run", user_id="alice", position=0, events=events)
    row: list[dict[str, Any]] = live.row_of(chunk)["events"]
    return row


def log_of_two_steps() -> TurnLog:
    log = TurnLog(1, 1)
    started = ToolStarted(id="1", name="list_tasks", arguments={})
    log.begin_step()
    log.add(ReasoningAdded("H"), ReasoningAdded("m."), TextAdded("Let me "), TextAdded("see."))
    log.add(started, ToolEnded(CALL))
    log.begin_step()
    log.add(started, ToolEnded(CALL))
    log.begin_step()
    log.add(TextAdded("One"), TextAdded("."))
    log.begin_step()
    log.add(TextAdded("Two."))
    return log


def test_events_that_follow_each_other_in_a_step_are_one() -> None:
    started = ToolStarted(id="1", name="list_tasks", arguments={})
    assert msgspec.convert(stored(log_of_two_steps().events), list[TurnEvent]) == [
        ReasoningAdded("Hm.", begins_step=True),
        TextAdded("Let me see."),
        started,
        ToolEnded(CALL),
        ToolStarted(id="1", name="list_tasks", arguments={}, begins_step=True),
        ToolEnded(CALL),
        TextAdded("One.", begins_step=True),
        TextAdded("Two.", begins_step=True),
    ]


def test_the_version_before_reads_them_without_the_steps() -> None:
    old = TextDelta | ReasoningDelta | OldToolStarted | OldToolEnded
    started = OldToolStarted(id="1", name="list_tasks", arguments={})
    assert msgspec.convert(stored(log_of_two_steps().events), list[old]) == [
        ReasoningDelta("Hm."),
        TextDelta("Let me see."),
        started,
        OldToolEnded(CALL),
        started,
        OldToolEnded(CALL),
        TextDelta("One."),
        TextDelta("Two."),
    ]


def test_those_of_the_version_before_are_read() -> None:
    rows = [
        {"type": "TextDelta", "text": "Hm."},
        {"type": "ToolStarted", "id": "1", "name": "x", "arguments": {}},
    ]
    assert msgspec.convert(rows, list[TurnEvent]) == [
        TextAdded("Hm."),
        ToolStarted(id="1", name="x", arguments={}),
    ]
