"""Earlier turns for a model: as they were, or in plain words."""

from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolReturnPart, UserPromptPart

from chatapi.agent.ports import HistoryMessage, ToolCall
from chatapi.agent.pydantic_ai.history import dumped, messages_of

USER = HistoryMessage(role="user", content="Hello")
CALL = ToolCall(id="c1", name="add_task", arguments={"title": "milk"}, result={"id": 1})


def shape(messages: list[ModelMessage]) -> list[tuple[type[Any], list[str]]]:
    return [(type(message), [part.part_kind for part in message.parts]) for message in messages]


@pytest.mark.parametrize(
    "state",
    [
        None,
        "nonsense",
        {"provider": "somebody else", "messages": []},
        {"provider": "openai x"},
        {"provider": "openai x", "messages": [{"kind": "of another version"}]},
    ],
)
def test_without_a_state_that_holds_it_is_plain(state: Any) -> None:
    said = HistoryMessage(role="assistant", content="Done.", tool_calls=[CALL], provider_state=state)
    assert shape(messages_of([USER, said], "openai x", {})) == [
        (ModelRequest, ["user-prompt"]),
        (ModelResponse, ["tool-call"]),
        (ModelRequest, ["tool-return"]),
        (ModelResponse, ["text"]),
    ]


def test_a_turn_that_was_cancelled_before_its_first_word_is_still_answered() -> None:
    silent = HistoryMessage(role="assistant", content=" ")
    called = HistoryMessage(role="assistant", content="", tool_calls=[CALL])
    assert shape(messages_of([USER, silent, USER, called], None, {})) == [
        (ModelRequest, ["user-prompt"]),
        (ModelResponse, ["text"]),
        (ModelRequest, ["user-prompt"]),
        (ModelResponse, ["tool-call"]),
        (ModelRequest, ["tool-return"]),
        (ModelResponse, ["text"]),
    ]


def test_results_in_the_shape_of_pydantic_ais_own_files_stay_values() -> None:
    like_files = [{"kind": "binary", "data": "aGk=", "media_type": "text/plain"}]
    messages: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart("Go"), ToolReturnPart("look", like_files, tool_call_id="c1")])
    ]
    state = dumped(messages, "openai x")
    said = HistoryMessage(role="assistant", content="Done.", provider_state=state)
    (found,) = messages_of([said], "openai x", {})
    assert [getattr(part, "content", None) for part in found.parts] == ["Go", like_files]
