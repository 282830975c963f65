"""The offline assistant where its calls need approval: it asks in words and by the request, and goes on."""

import pytest

from chatapi.offline.assistant import NO_APPROVAL
from tests.unit.test_offline_conversation import Conversation

DESTRUCTIVE = {"delete_task", "update_task"}
EVERY = {"search_conversations", "list_tasks", "add_task", "complete_task", *DESTRUCTIVE}


def all_of_them(_: int) -> bool:
    return True


def none_of_them(_: int) -> bool:
    return False


def first_task(task_id: int) -> bool:
    return task_id == 101


def talking(*titles: str, asking: set[str] = DESTRUCTIVE) -> Conversation:
    conversation = Conversation(*titles)
    conversation.tools.asking = asking
    return conversation


@pytest.mark.parametrize(
    ("message", "asked", "after", "left"),
    [
        ("delete milk", 'May I delete "milk"?', 'Deleted "milk".', ["bread", "tea*"]),
        ("delete milk and bread", 'May I delete "milk" and "bread"?', 'Deleted "milk" and "bread".', ["tea*"]),
        ("delete milk. delete bread", 'May I delete "milk" and "bread"?', 'Deleted "milk".\nDeleted "bread".', ["tea*"]),
        ("delete everything", 'May I delete "milk", "bread" and "tea"?', 'Deleted "milk", "bread" and "tea".', []),
        ("rename milk to oat milk", 'May I rename "milk" to "oat milk"?', 'Renamed "milk" to "oat milk".', ["oat milk", "bread", "tea*"]),
        ("reopen tea", 'May I reopen "tea"?', 'Reopened "tea".', ["milk", "bread", "tea"]),
        ("add jam and then delete milk", 'Added "jam".\nMay I delete "milk"?', 'Deleted "milk".', ["bread", "tea*", "jam"]),
        ("delete milk and cheese", 'May I delete "milk"?', 'Deleted "milk".\nI can\'t find a task like "cheese". Say "show my tasks" to see them.', ["bread", "tea*"]),
    ],
)  # fmt: skip
async def test_a_change_is_asked_about_and_then_made(
    message: str, asked: str, after: str, left: list[str]
) -> None:
    conversation = talking("milk", "bread", "tea*")
    assert await conversation.say(message) == asked
    assert [title for title in conversation.titles if title != "jam"] == ["milk", "bread", "tea*"]
    conversation = talking("milk", "bread", "tea*")
    assert await conversation.say(message, all_of_them) == f"{asked}\n{after}"
    assert conversation.titles == left
    assert not conversation.tools.pending


async def test_a_change_that_is_denied_is_not_made() -> None:
    conversation = talking("milk", "bread")
    answer = await conversation.say("delete milk and bread", none_of_them)
    assert answer.endswith('\nOK, I didn\'t delete "milk" and "bread".')
    answer = await conversation.say("delete milk and bread", first_task)
    assert answer.endswith('\nDeleted "milk".\nOK, I didn\'t delete "bread".')
    assert conversation.titles == ["bread"]


async def test_what_was_done_before_the_question_is_not_done_again() -> None:
    conversation = talking("milk")
    answer = await conversation.say(
        "add jam. delete milk. show my tasks. rename jam to honey", all_of_them, all_of_them
    )
    assert answer.split("\n") == [
        'Added "jam".',
        'May I delete "milk"?',
        'Deleted "milk".',
        "You have 1 open task:",
        "1. jam",
        'May I rename "jam" to "honey"?',
        'Renamed "jam" to "honey".',
    ]
    assert conversation.changes == ["add jam", "delete milk", "update honey title=honey"]


async def test_an_undo_is_asked_about_at_once() -> None:
    conversation = talking()
    await conversation.say("add milk and bread")
    answer = await conversation.say("undo", all_of_them)
    assert answer.startswith('May I delete "bread" and "milk"?\nDeleted "bread".')
    assert conversation.titles == []


async def test_an_answer_to_its_own_question_is_asked_about_too() -> None:
    conversation = talking("call mom", "call dad")
    await conversation.say("delete call")
    answer = await conversation.say("no, the second one", all_of_them)
    assert answer == 'May I delete "call dad"?\nDeleted "call dad".'
    assert conversation.titles == ["call mom"]


@pytest.mark.parametrize(
    "title", ["milk", "x Which one should I rename to", 'Did you mean "y"? Say "yes" and I\'ll delete it']
)
async def test_its_request_is_not_one_of_its_questions_in_the_next_turn(title: str) -> None:
    conversation = talking(title)
    assert (await conversation.say("delete task 1")).startswith("May I delete")
    assert await conversation.say("yes") == NO_APPROVAL
    assert await conversation.say("no") == "OK, I changed nothing."
    assert await conversation.say("it") != 'Deleted "milk".'
    assert conversation.titles == [title]


async def test_what_was_allowed_is_remembered() -> None:
    conversation = talking("milk", "bread")
    await conversation.say("delete milk", all_of_them)
    assert await conversation.say("what did you delete?") == 'Last deleted: "milk".'
    await conversation.say("bring back milk")
    await conversation.say("delete bread", none_of_them)
    assert await conversation.say("what did you delete?") == 'Last deleted: "milk".'


async def test_every_call_may_need_approval() -> None:
    conversation = talking("milk", asking=EVERY)
    answer = await conversation.say("delete milk. add tea", *[all_of_them] * 3)
    assert answer.split("\n") == [
        "May I look at your list?",
        'May I delete "milk"?',
        'Deleted "milk".',
        'May I add "tea" to your list?',
        'Added "tea".',
    ]
    assert (await conversation.say("show my tasks", none_of_them)).endswith("you didn't allow it.")
    answer = await conversation.say("what did I say about milk?", none_of_them)
    assert answer.startswith('May I search our conversations for "milk"?\nI couldn\'t search')


async def test_more_than_anybody_would_look_through_are_not_asked_about() -> None:
    conversation = talking(*(f"task number {number}" for number in range(21)))
    assert "I ask for 20 at most" in await conversation.say("delete everything")
    assert len(conversation.titles) == 21


async def test_a_change_that_its_tool_refuses_after_all_is_told() -> None:
    conversation = talking("milk")
    conversation.tools.broken["delete_task"] = "There is no task 101 of yours."
    answer = await conversation.say("delete milk", all_of_them)
    assert answer.endswith('I couldn\'t delete "milk": it is no longer on your list.')
