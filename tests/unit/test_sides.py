"""A model is shown a conversation whose sides take turns, wherever messages were added to it."""

from typing import Any

import pytest

from chatapi.agent.ports import HistoryMessage, Prompt, ToolCall
from chatapi.turns.sides import ADDED_STATE, OPENING, taking_turns, well_formed

CALL = ToolCall(id="c", name="f", arguments={}, result=1)


def user(text: str) -> HistoryMessage:
    return HistoryMessage(role="user", content=text)


def assistant(text: str, *calls: ToolCall, added: bool = True) -> HistoryMessage:
    state: Any = ADDED_STATE if added else {"provider": "p"}
    return HistoryMessage(role="assistant", content=text, tool_calls=calls, provider_state=state)


SAID: list[tuple[list[HistoryMessage], list[tuple[str, str, int]]]] = [
    ([user("a"), assistant("b", added=False)], [("user", "a", 0), ("assistant", "b", 0)]),
    ([assistant("b")], [("user", OPENING, 0), ("assistant", "b", 0)]),
    # A call without its outcome says nothing by itself.
    ([user("a"), assistant(""), user("b")], [("user", "a\n\nb", 0)]),
    (
        [user("a"), assistant(""), assistant("", CALL), assistant("b")],
        [("user", "a", 0), ("assistant", "b", 1)],
    ),
    (
        [user("a"), assistant("b", added=False), assistant("c")],
        [("user", "a", 0), ("assistant", "b\n\nc", 0)],
    ),
]


@pytest.mark.parametrize(("said", "shown"), SAID)
def test_messages_of_one_side_in_a_row_are_put_together(
    said: list[HistoryMessage], shown: list[tuple[str, str, int]]
) -> None:
    messages, turn_ids = taking_turns(said, range(len(said)))
    assert [(each.role, each.content, len(each.tool_calls)) for each in messages] == shown
    assert len(turn_ids) == len(messages)
    assert turn_ids[-1] == len(said) - 1


def test_the_state_of_a_message_that_was_put_together_is_nobodys() -> None:
    """Or its provider would be sent its own part alone."""
    (*_, last), _ = taking_turns([user("a"), assistant("b", added=False), assistant("c")], [1, 1, 2])
    assert last.provider_state is None


def test_what_has_no_answer_becomes_a_part_of_what_follows() -> None:
    def prompt(*history: HistoryMessage) -> Prompt:
        return Prompt(user_id="u", conversation_id=1, message="q", history=history)

    whole = prompt(user("a"), assistant("b"))
    assert well_formed(whole) is whole
    last = well_formed(prompt(user("a"), assistant("b"), user("c")))
    assert ([each.content for each in last.history], last.message) == (["a", "b"], "c\n\nq")
    # What a request sends before its message begins with a user, too.
    inside = well_formed(prompt(user("a"), user("b"), assistant("c")))
    assert ([each.content for each in inside.history], inside.message) == (["a\n\nb", "c"], "q")
