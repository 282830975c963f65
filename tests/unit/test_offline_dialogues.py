"""The offline assistant over several turns: what words point back at, questions and their answers, honesty."""

import asyncio
import random
import time

import pytest

from chatapi.agent.ports import Agent, HistoryMessage, Prompt, TextDelta, ToolCall
from chatapi.offline import OfflineAgent
from tests.unit.test_offline_conversation import Conversation, FakeTools

DESTRUCTIVE = {"delete_task", "update_task", "complete_task"}


class TestReferences:
    async def test_a_number_is_the_place_in_the_latest_list(self) -> None:
        conversation = Conversation("milk*", "bread", "eggs")
        await conversation.say_all("what's left?", "complete task 2")
        assert conversation.changes == ["complete eggs"]

    async def test_numbers_stay_with_the_list_when_tasks_are_gone(self) -> None:
        conversation = Conversation("milk", "bread", "eggs")
        await conversation.say_all("show my tasks", "delete 1", "delete 2")
        assert conversation.titles == ["eggs"]

    async def test_what_is_no_longer_there_is_said(self) -> None:
        conversation = Conversation("milk", "bread")
        answer = await conversation.say_all("show my tasks", "delete 1", "delete 1")
        assert answer == 'I couldn\'t delete "milk": it is no longer on your list.'

    async def test_without_a_list_all_tasks_are_numbered(self) -> None:
        conversation = Conversation("milk*", "bread")
        await conversation.say("complete task 2")
        assert conversation.changes == ["complete bread"]

    async def test_a_number_beyond_the_list_does_nothing(self) -> None:
        conversation = Conversation("milk", "bread")
        assert await conversation.say("delete task 3") == "There is no number 3: that list has 2 tasks."
        assert await Conversation().say("delete task 3") == "Your list is empty."

    async def test_what_was_added_since_continues_the_list(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("show my tasks", "add eggs", "complete task 3", "reopen the last one")
        assert conversation.changes == ["add eggs", "complete eggs", "update eggs completed=False"]

    async def test_what_was_added_and_deleted_since_does_not(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("show my tasks", "add eggs", "delete it", "complete the last one")
        assert conversation.changes[-1] == "complete bread"

    async def test_the_second_of_those_just_added(self) -> None:
        conversation = Conversation("milk")
        await conversation.say_all("show my tasks", "add eggs and jam", "complete the second one")
        assert conversation.changes[-1] == "complete jam"

    async def test_it_is_the_task_touched_last(self) -> None:
        conversation = Conversation("milk")
        await conversation.say_all(
            "add bread", "what's left?", "complete it", "hi", "rename it to rolls", "delete that"
        )
        assert conversation.changes == [
            "add bread",
            "complete bread",
            "update rolls title=rolls",
            "delete rolls",
        ]

    async def test_it_is_the_only_task_shown(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("is bread on my list?", "delete it")
        assert conversation.titles == ["milk"]

    async def test_it_after_several_is_asked_about(self) -> None:
        conversation = Conversation("milk")
        answer = await conversation.say_all("add bread and eggs", "complete it")
        assert answer == "Which one should I complete?\n1. bread\n2. eggs"
        await conversation.say("the first")
        assert conversation.changes[-1] == "complete bread"

    async def test_it_without_anything_before(self) -> None:
        assert "not sure which task" in await Conversation("milk").say("delete it")
        assert "not sure which tasks" in await Conversation("milk").say("complete them")

    async def test_both_and_them(self) -> None:
        conversation = Conversation("milk")
        await conversation.say_all("add bread and eggs", "complete the second one", "complete both")
        assert conversation.titles == ["milk", "bread*", "eggs*"]

    async def test_them_is_the_list_shown(self) -> None:
        conversation = Conversation("milk", "bread", "eggs*")
        await conversation.say_all("show my tasks", "complete them all")
        assert conversation.titles == ["milk*", "bread*", "eggs*"]

    async def test_a_task_shown_by_itself_does_not_renumber(self) -> None:
        conversation = Conversation("milk", "bread", "eggs")
        await conversation.say_all(
            "show my tasks", "tell me about milk", "complete task 3", "show task 2", "delete it"
        )
        assert conversation.titles == ["milk", "eggs*"]

    async def test_the_other_one_of_three(self) -> None:
        conversation = Conversation("milk", "bread", "eggs")
        assert "which other one" in await conversation.say_all(
            "show my tasks", "complete 1", "delete the other one"
        )

    async def test_the_other_one(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("show my tasks", "complete 1", "delete the other one")
        assert conversation.titles == ["milk*"]

    async def test_the_rest(self) -> None:
        conversation = Conversation("milk", "bread", "eggs")
        await conversation.say_all("complete milk", "complete the rest")
        assert conversation.titles == ["milk*", "bread*", "eggs*"]

    async def test_a_long_list_is_cut_and_numbered_on(self) -> None:
        conversation = Conversation(*(f"task no. {number}" for number in range(1, 31)), page=7)
        answer = await conversation.say("show my tasks")
        assert "20. task no. 20\n…and 10 more." in answer
        assert "21. " not in answer
        await conversation.say("complete task 27")
        assert conversation.changes == ["complete task no. 27"]

    async def test_more_tasks_than_are_read(self) -> None:
        conversation = Conversation(*(f"thing {number}" for number in range(12)), page=2)
        assert (
            await conversation.say("how many tasks do I have?")
            == "You have more than 10 tasks: 10 open and 0 done."
        )

    async def test_titles_that_look_like_lists(self) -> None:
        conversation = Conversation("2. milk", "1. bread", "two\nlines")
        assert (
            await conversation.say("show my tasks")
            == "You have 3 open tasks:\n1. 2. milk\n2. 1. bread\n3. two lines"
        )
        await conversation.say("complete 3 and 1")
        assert conversation.titles == ["2. milk*", "1. bread", "two\nlines*"]

    async def test_history_of_another_assistant_is_no_trouble(self) -> None:
        conversation = Conversation("milk")
        strange = [
            ToolCall(id="1", name="list_tasks", arguments={}, result=["milk"]),
            ToolCall(id="2", name="add_task", arguments={}, result="fine"),
            ToolCall(id="3", name="weather__today", arguments={}, result={"id": 101, "title": "rain"}),
        ]
        conversation.history = [
            HistoryMessage(role="user", content="hi"),
            HistoryMessage(
                role="assistant", content="Which one should I frobnicate?\n1. milk", tool_calls=strange
            ),
        ]
        await conversation.say("1")
        await conversation.say("complete task 1")
        assert conversation.changes == ["complete milk"]


class TestQuestions:
    @pytest.mark.parametrize(
        "answer",
        ["the second", "2", "number 2", "the second one please", "milk chocolate", "the chocolate", "last"],
    )
    async def test_several_tasks_match(self, answer: str) -> None:
        conversation = Conversation("almond milk", "bread", "milk chocolate")
        question = await conversation.say("complete milk")
        assert question == "Which one should I complete?\n1. almond milk\n2. milk chocolate"
        assert conversation.changes == []
        await conversation.say(answer)
        assert conversation.changes == ["complete milk chocolate"]

    @pytest.mark.parametrize(
        ("command", "change"),
        [
            ("delete milk", "delete milk chocolate"),
            ("rename milk to tea", "update tea title=tea"),
            ("update the description of milk to 2 bars", "update milk chocolate description=2 bars"),
            ("clear the description of milk", "update milk chocolate description=None"),
        ],
    )
    async def test_the_answer_does_what_was_asked(self, command: str, change: str) -> None:
        conversation = Conversation("almond milk", "milk chocolate")
        await conversation.say_all(command, "the second")
        assert conversation.changes == [change]

    async def test_exact_beats_partial(self) -> None:
        conversation = Conversation("almond milk", "milk", "oat milk")
        await conversation.say("delete the Milk")
        assert conversation.changes == ["delete milk"]

    async def test_both(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate", "bread")
        await conversation.say_all("delete milk", "both of them")
        assert conversation.titles == ["bread"]

    async def test_no(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate")
        assert await conversation.say_all("delete milk", "neither") == "OK, I changed nothing."
        assert conversation.changes == []

    async def test_what_is_no_answer_changes_nothing(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate")
        assert "changed nothing" in await conversation.say_all("delete milk", "hmm dunno")
        assert "changed nothing" in await conversation.say_all(
            "delete everything", "yes but not the chocolate"
        )
        assert conversation.changes == []

    async def test_yes_is_no_choice(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate")
        assert "which: a number from 1 to 2" in await conversation.say_all("delete milk", "yes")

    async def test_an_answer_that_is_still_ambiguous_is_asked_again(self) -> None:
        conversation = Conversation("almond milk", "oat milk", "almond cake milk")
        again = await conversation.say_all("delete milk", "the almond")
        assert again == "Which one should I delete?\n1. almond milk\n2. almond cake milk"
        await conversation.say("1")
        assert conversation.changes == ["delete almond milk"]

    async def test_a_number_that_was_not_offered(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate", "bread")
        await conversation.say_all("delete milk", "3")
        assert conversation.changes == []

    async def test_another_command_instead_of_an_answer(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate", "bread")
        await conversation.say_all("delete milk", "complete bread")
        assert conversation.changes == ["complete bread"]

    async def test_a_question_is_forgotten_after_one_turn(self) -> None:
        conversation = Conversation("almond milk", "milk chocolate")
        await conversation.say_all("delete milk", "hi", "milk chocolate")
        assert conversation.changes == []

    async def test_two_tasks_of_the_same_title(self) -> None:
        conversation = Conversation("milk", "milk*")
        await conversation.say("complete milk")  # only one of them can be meant
        assert conversation.titles == ["milk*", "milk*"]
        await conversation.say_all("delete milk", "2")
        assert [call.arguments for call in conversation.tools.calls][-1] == {"task_id": 102}

    async def test_a_typo_is_asked_about(self) -> None:
        conversation = Conversation("bread", "milk")
        answer = await conversation.say("delete brad")
        assert (
            answer == 'I can\'t find a task like "brad". Did you mean "bread"? Say "yes" and I\'ll delete it.'
        )
        await conversation.say("yes")
        assert conversation.changes == ["delete bread"]

    async def test_several_typos(self) -> None:
        conversation = Conversation("brown bread", "white bread")
        assert "Which one should I delete?" in await conversation.say("delete bred")
        await conversation.say("the white one")
        assert conversation.changes == ["delete white bread"]

    async def test_which_of_all(self) -> None:
        conversation = Conversation("bread", "milk*", "tea")
        assert await conversation.say("done") == "Which one should I complete?\n1. bread\n2. tea"
        await conversation.say("tea")
        assert conversation.changes == ["complete tea"]
        assert await Conversation().say("delete") == "There is nothing to delete."

    async def test_an_offer(self) -> None:
        conversation = Conversation()
        assert (
            await conversation.say("we need eggs and tea")
            == "Should I add this to your list?\n1. eggs\n2. tea"
        )
        await conversation.say("yes please")
        assert conversation.titles == ["eggs", "tea"]

    async def test_an_offer_declined_or_ignored(self) -> None:
        conversation = Conversation()
        await conversation.say_all("I need a holiday", "no", "I need a holiday", "I need a rest", "blah")
        assert conversation.titles == []

    async def test_a_question_ends_the_commands(self) -> None:
        conversation = Conversation("almond milk", "oat milk", "bread")
        answer = await conversation.say("delete milk, complete bread and show my list")
        assert 'I\'ll wait with the rest: "complete bread show my list"' in answer
        await conversation.say("2")
        assert conversation.changes == ["delete oat milk"]

    async def test_what_is_clear_is_done_and_the_rest_asked(self) -> None:
        conversation = Conversation("almond milk", "oat milk", "bread")
        answer = await conversation.say("complete bread, milk and foo")
        assert conversation.changes == ["complete bread"]
        assert answer.startswith('Completed "bread".\nI can\'t find a task like "foo".')
        await conversation.say("the first")
        assert conversation.changes == ["complete bread", "complete almond milk"]

    async def test_meaning_another_than_those_offered(self) -> None:
        conversation = Conversation("almond milk", "oat milk", "bread")
        await conversation.say_all("delete milk", "I meant bread")
        assert conversation.titles == ["almond milk", "oat milk"]

    async def test_meaning_one_of_those_offered(self) -> None:
        conversation = Conversation("almond milk", "oat milk", "bread")
        await conversation.say_all("delete milk", "I meant the second one")
        assert conversation.titles == ["almond milk", "bread"]


class TestDeletingMany:
    async def test_it_asks_first_and_then_does_it(self) -> None:
        conversation = Conversation("milk", "bread", "eggs*")
        question = await conversation.say("delete everything")
        assert question.startswith('That would delete all 3 tasks. Say "yes, delete all"')
        assert conversation.changes == []
        assert await conversation.say("yes, delete all") == 'Deleted "milk", "bread" and "eggs".'
        assert conversation.titles == []

    @pytest.mark.parametrize(
        "answer", ["no", "don't", "cancel", "hmm", "yes but not the milk", "never mind", "hi"]
    )
    async def test_anything_but_yes_deletes_nothing(self, answer: str) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("delete everything", answer)
        assert conversation.changes == []

    async def test_yes_deletes_what_was_counted_and_nothing_newer(self) -> None:
        conversation = Conversation("milk", "bread", "eggs*")
        await conversation.say("clear completed tasks")
        await conversation.tools.call("complete_task", {"task_id": 101})
        await conversation.say("yes")
        assert conversation.titles == ["milk*", "bread"]

    async def test_more_than_are_shown(self) -> None:
        conversation = Conversation(*(f"thing {number}" for number in range(30)))
        await conversation.say_all("delete everything", "yes")
        assert conversation.titles == []

    async def test_some_of_too_many_to_tell_apart(self) -> None:
        conversation = Conversation("bread", *(f"thing {number}" for number in range(30)))
        assert "can't tell any more" in await conversation.say_all("delete everything except bread", "yes")
        assert len(conversation.titles) == 31

    async def test_all_but_one(self) -> None:
        conversation = Conversation("milk", "bread", "eggs")
        answer = await conversation.say("delete everything except bread")
        assert answer.startswith("That would delete these 2 tasks.")
        await conversation.say("yes")
        assert conversation.titles == ["bread"]

    async def test_all_but_one_that_is_not_there(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("delete everything except the laundry", "yes")
        assert len(conversation.titles) == 2

    async def test_all_about_something(self) -> None:
        conversation = Conversation("walk dog", "milk", "wash dog")
        await conversation.say_all("delete all dog tasks", "yes")
        assert conversation.titles == ["milk"]

    async def test_those_shown(self) -> None:
        conversation = Conversation("milk", "bread", "eggs*")
        await conversation.say_all("what's left?", "delete them", "yes")
        assert conversation.titles == ["eggs*"]

    async def test_those_shown_are_gone_by_now(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say("what's left?")
        conversation.tools.tasks.clear()
        assert await conversation.say("delete them") == "There is nothing left to delete."

    async def test_nothing_to_delete(self) -> None:
        assert await Conversation("milk").say("clear completed tasks") == "There is nothing to delete."


class TestTakingBack:
    async def test_undo_of_each(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("add eggs", "undo")
        await conversation.say_all("complete milk", "undo that")
        await conversation.say_all(
            "reopen milk", "rename bread to rolls", "undo", "add a note to bread: rye", "undo"
        )
        assert conversation.titles == ["milk", "bread"]
        assert conversation.tools.tasks[102]["description"] is None

    async def test_undo_of_a_reopening(self) -> None:
        conversation = Conversation("milk*")
        await conversation.say_all("reopen milk", "undo")
        assert conversation.titles == ["milk*"]

    async def test_undo_of_a_delete_is_a_new_entry(self) -> None:
        conversation = Conversation("milk*")
        answer = await conversation.say_all("delete milk", "undo that")
        assert (
            answer
            == 'Added "milk" again, as a new entry, and it is open again: what is deleted is gone for good.'
        )
        assert list(conversation.tools.tasks) == [102]

    async def test_undo_of_many(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("complete all", "oops, undo")
        assert conversation.titles == ["milk", "bread"]

    async def test_undo_of_nothing(self) -> None:
        assert "nothing in this conversation" in await Conversation("milk").say("undo that")

    async def test_undo_of_what_cannot_be_seen_any_more(self) -> None:
        conversation = Conversation("milk")
        await conversation.say_all("show my tasks", "rename 1 to tea")
        conversation.history = conversation.history[-2:]
        assert "can't see any more" in await conversation.say("undo")

    async def test_undo_of_an_add_that_fails(self) -> None:
        conversation = Conversation("milk")
        await conversation.say("delete milk")
        conversation.tools.broken["add_task"] = "The disk is full."
        assert await conversation.say("undo") == 'I couldn\'t add "milk": The disk is full.'

    async def test_not_done_yet(self) -> None:
        conversation = Conversation("milk")
        await conversation.say_all("complete milk", "actually, not done yet")
        assert conversation.titles == ["milk"]

    async def test_not_done_of_what_is_gone_or_unclear(self) -> None:
        conversation = Conversation("milk")
        assert "gone" not in await conversation.say_all("show my tasks", "delete 1", "it's not done")
        assert await conversation.say("not done with the soup") == (
            'I can\'t find a task like "soup". Your list is empty.'
        )

    async def test_bring_back_what_was_deleted(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all(
            "delete milk", "delete bread", "bring back milk", "delete milk", "restore it"
        )
        assert conversation.titles == ["milk"]

    async def test_i_meant_another(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("complete milk", "no, I meant bread")
        assert conversation.titles == ["milk", "bread*"]

    @pytest.mark.parametrize(
        "correction", ["not milk, bread", "sorry, I meant bread", "no, the bread", "bread instead"]
    )
    async def test_other_ways_to_say_so(self, correction: str) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("delete milk", correction)
        assert conversation.titles == ["milk"]

    async def test_i_meant_another_title(self) -> None:
        conversation = Conversation()
        await conversation.say_all("add milk", "no, I meant the bread")
        assert conversation.titles == ["bread"]

    async def test_i_meant_another_to_rename_reopen_or_describe(self) -> None:
        conversation = Conversation("milk", "bread", "eggs*", "tea*")
        await conversation.say_all("rename milk to rolls", "I meant bread")
        await conversation.say_all("reopen eggs", "I meant tea")
        await conversation.say_all("add a note to milk: fresh", "I meant tea")
        assert conversation.titles == ["milk", "rolls", "eggs*", "tea"]
        assert conversation.tools.tasks[104]["description"] == "fresh"

    async def test_i_meant_another_new_title(self) -> None:
        conversation = Conversation("milk")
        await conversation.say_all("rename milk to tea", "I meant coffee")
        assert conversation.titles == ["coffee"]

    async def test_i_meant_what_is_not_there(self) -> None:
        conversation = Conversation("milk")
        assert "left things as they were" in await conversation.say_all("complete milk", "I meant the soup")
        assert conversation.titles == ["milk*"]

    async def test_i_meant_after_a_miss(self) -> None:
        conversation = Conversation("milk", "bread")
        await conversation.say_all("delete the soup", "I meant bread")
        assert conversation.titles == ["milk"]

    async def test_i_meant_after_nothing(self) -> None:
        assert "not sure what to correct" in await Conversation("milk").say_all("hi", "I meant milk")

    @pytest.mark.parametrize(
        ("message", "titles"), [("undo", ["milk", "eggs"]), ("I meant eggs", ["milk", "eggs*"])]
    )
    async def test_what_another_assistant_did(self, message: str, titles: list[str]) -> None:
        conversation = Conversation("milk", "eggs")
        call = await conversation.tools.call("update_task", {"task_id": 101, "completed": True})
        conversation.history = [
            HistoryMessage(role="user", content="milk is fine"),
            HistoryMessage(role="assistant", content="Ticked it off.", tool_calls=[call]),
        ]
        await conversation.say(message)
        assert conversation.titles == titles


class TestDone:
    async def test_past_tense_of_the_very_title(self) -> None:
        conversation = Conversation("plan trip", "tidy desk", "save money")
        await conversation.say_all("I planned the trip", "I've tidied my desk", "I saved some money")
        assert conversation.titles == ["plan trip*", "tidy desk*", "save money*"]

    async def test_past_tense_of_something_like_it_is_asked_about(self) -> None:
        conversation = Conversation("milk for the cake", "rent")
        assert 'Did you mean "rent"?' in await conversation.say("I paid the rent")
        await conversation.say("yes")
        assert conversation.titles == ["milk for the cake", "rent*"]

    async def test_past_tense_of_several_at_once(self) -> None:
        conversation = Conversation("milk", "buy eggs", "tea")
        await conversation.say("I got milk and eggs")
        assert conversation.titles == ["milk*", "buy eggs*", "tea"]

    async def test_past_tense_of_one_of_several(self) -> None:
        conversation = Conversation("almond milk", "oat milk")
        assert "Which one should I complete?" in await conversation.say("I bought milk")

    async def test_what_is_done_is_said_to_be(self) -> None:
        conversation = Conversation("milk*", "bread*")
        assert await conversation.say("complete milk") == '"milk" is already done.'
        assert await conversation.say("complete milk and bread") == '"milk" and "bread" are already done.'
        assert await conversation.say("I didn't finish milk") == 'Reopened "milk".'
        assert await conversation.say("I didn't finish milk") == '"milk" is still open, so nothing changed.'


class TestShowing:
    async def test_lists(self) -> None:
        conversation = Conversation("milk", "bread*")
        assert await conversation.say("what's left?") == "You have 1 open task:\n1. milk"
        assert await conversation.say("show completed") == "You have 1 completed task:\n1. bread (done)"
        assert await conversation.say("list everything") == "You have 2 tasks:\n1. milk\n2. bread (done)"
        assert await conversation.say("how many tasks do I have?") == "You have 2 tasks: 1 open and 1 done."
        assert await conversation.say("how many are left?") == "You have 1 open task."

    async def test_empty_lists(self) -> None:
        conversation = Conversation()
        assert "no open tasks" in await conversation.say("what's left?")
        assert "haven't completed" in await conversation.say("how many have I done?")
        assert "is empty" in await conversation.say("list everything")

    async def test_one_task(self) -> None:
        conversation = Conversation("milk", "almond milk*")
        await conversation.say("add a note to task 1: fresh")
        assert await conversation.say("show task 1") == (
            'I found this task, still open:\n- milk\nIts description: "fresh".'
        )
        assert await conversation.say("tell me about it") == (
            'I found this task, still open:\n- milk\nIts description: "fresh".'
        )
        assert await conversation.say("find milk") == "I found 2 tasks:\n1. milk\n2. almond milk (done)"
        assert "no number 5" in await conversation.say("show task 5")
        assert "I found 2 tasks" in await conversation.say("tell me about everything")
        assert await conversation.say("tell me about tea") == 'I can\'t find a task like "tea".'
        assert 'The closest: "milk"' in await conversation.say("find milkk")

    async def test_it_is_gone(self) -> None:
        conversation = Conversation("milk")
        assert "can't find that task" in await conversation.say_all("delete milk", "tell me about it")


class TestRemembering:
    async def test_what_was_said(self) -> None:
        conversation = Conversation()
        assert "first message" in await conversation.say("what did I say first?")
        conversation = Conversation()
        assert "haven't said anything" in await conversation.say("what did you say?")
        conversation = Conversation()
        await conversation.say_all("add milk", "hi")
        assert '"add milk"' in await conversation.say("what did I say first?")
        assert '"add milk"' in await conversation.say("What was the first thing I asked?")
        assert '"hi"' in await conversation.say("what was the second thing I said?")
        assert '"what was the second thing I said?"' in await conversation.say("what did I just say?")
        assert "You said" in await conversation.say("what did you say?")
        assert 'Added "milk"' in await conversation.say("what was the first thing you said?")
        assert "I can only see" in await Conversation().say_all("hi", "what was the fifth thing I said?")

    async def test_it_sees_no_further_than_its_history(self) -> None:
        conversation = Conversation()
        await conversation.say("add milk")
        await conversation.say_all(*(["hi"] * 10))
        answer = await conversation.say("what did I say first?")
        assert answer == 'The first thing you said, as far back as I can see: "hi"'

    async def test_all_that_was_said(self) -> None:
        conversation = Conversation()
        assert "first message" in await conversation.say("what have we talked about?")
        assert '- "add milk"' in await conversation.say_all("add milk", "what did we talk about?")

    async def test_a_long_message_is_cut(self) -> None:
        answer = await Conversation().say_all("x" * 5_000, "what did I just say?")
        assert len(answer) < 400

    async def test_what_was_touched(self) -> None:
        conversation = Conversation("tea")
        assert "can't see that anything was added" in await conversation.say("what did I just add?")
        assert (
            await conversation.say_all("add milk and bread", "what did I add?")
            == 'Last added: "milk" and "bread".'
        )
        assert await conversation.say_all("delete tea", "what did I delete?") == 'Last deleted: "tea".'

    async def test_a_name(self) -> None:
        conversation = Conversation()
        assert "haven't told me" in await conversation.say("what's my name?")
        assert await conversation.say_all("My name is Ann", "what's my name?") == "You told me: Ann."


class TestHonesty:
    async def test_an_error_is_told_and_nothing_claimed(self) -> None:
        conversation = Conversation("milk")
        for tool in ("add_task", "complete_task", "delete_task", "update_task"):
            conversation.tools.broken[tool] = "The dog ate it."
        for message in (
            "add tea",
            "complete milk",
            "delete milk",
            "rename milk to tea",
            "add a note to milk: x",
        ):
            answer = await conversation.say(message)
            assert answer.startswith("I couldn't ")
            assert answer.endswith(": The dog ate it.")

    async def test_a_list_that_cannot_be_read(self) -> None:
        conversation = Conversation("milk")
        conversation.tools.broken["list_tasks"] = "The dog ate it."
        for message in ("what's left?", "complete milk", "I bought milk", "delete everything", "find milk"):
            assert await conversation.say(message) == "I couldn't read your list: The dog ate it."

    async def test_a_title_that_is_too_long(self) -> None:
        conversation = Conversation("milk")
        answer = await conversation.say("add " + "x" * 201)
        assert answer.endswith("a title may have 1 to 200 characters, and that one has 201.")
        assert conversation.titles == ["milk"]
        assert "and that one has 300." in await conversation.say("rename milk to " + "x" * 300)

    async def test_a_description_that_is_too_long(self) -> None:
        answer = await Conversation("milk").say("add a note to milk: " + "x" * 2_001)
        assert answer.endswith("a description may have at most 2,000 characters.")

    async def test_an_answer_that_makes_no_sense(self) -> None:
        class Senseless(FakeTools):
            def complete_task(self, call: object) -> dict[str, object]:
                return {"ok": True}

        conversation = Conversation()
        conversation.tools = Senseless("milk")
        assert "made no sense" in await conversation.say("complete milk")

    async def test_part_of_several_fails(self) -> None:
        answer = await Conversation().say("add:\n- milk\n- " + "x" * 201)
        assert answer.startswith('Added "milk".\nI couldn\'t add "xxx')

    async def test_no_alarm_is_promised(self) -> None:
        assert "can't ring" in await Conversation().say("remind me to call mom at 5pm")
        assert "can't ring" in await Conversation().say("remind me tomorrow to call mom")
        assert "can't ring" not in await Conversation().say("remind me to call mom")

    async def test_trouble_of_the_service_is_raised(self) -> None:
        class Broken(FakeTools):
            async def call(
                self,
                name: str,
                arguments: dict[str, object],
                **_: object,
            ) -> ToolCall:
                raise ConnectionError

        conversation = Conversation()
        conversation.tools = Broken()
        with pytest.raises(ConnectionError):
            await conversation.say("show my tasks")

    async def test_only_one_task_is_renamed(self) -> None:
        assert "only one task" in await Conversation("a", "b").say("rename 1 and 2 to tea")

    async def test_too_much_at_once(self) -> None:
        conversation = Conversation()
        assert "50" in await conversation.say(
            "add:\n" + "\n".join(f"- thing {number}" for number in range(51))
        )
        assert "20 commands" in await conversation.say(". ".join(["add milk"] * 21))
        assert conversation.titles == []

    async def test_many_are_summed_up(self) -> None:
        conversation = Conversation(*(f"thing {number}" for number in range(25)))
        answer = await conversation.say("complete everything")
        assert answer.endswith('"thing 19" and 5 more (25 tasks).')


class TestStreaming:
    async def test_word_by_word_and_each_piece_waits(self) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        prompt = Prompt(user_id="ann", conversation_id=1, message="help")
        events = [event async for event in OfflineAgent().reply(prompt, FakeTools())]
        pieces = [event.text for event in events if isinstance(event, TextDelta)]
        counting.cancel()
        assert len(pieces) > 50
        assert max(len(piece) for piece in pieces) < 30
        assert turns >= len(pieces)

    def test_it_is_an_agent(self) -> None:
        agent: Agent = OfflineAgent()
        assert isinstance(agent, Agent)
        assert agent.model == "offline"


LONG = 10_000
ADVERSARIES = [
    *(
        (unit * (LONG // len(unit) + 1))[:LONG]
        for unit in (
            *(
                "a",
                " ",
                "\n",
                '"',
                "'",
                "“",
                "and ",
                "and and",
                ", ",
                "- ",
                "1. ",
                "\n- a",
                "ha",
                "(",
                "a and b, ",
            ),
            *(
                "add ",
                "add add milk and ",
                "please ",
                "can you ",
                "not ",
                "yes ",
                "no, ",
                "all ",
                "the ",
                "my ",
            ),
            *(
                "delete all ",
                "mark as ",
                "as done ",
                "is already ",
                "to my list ",
                "the first ",
                "2, ",
                "1-2 ",
            ),
            *("what did i say ", "i ", "i have ", "because ", "instead ", "if ", ". add ", "; ", "and show "),
            *(
                "did you mean ",
                " now",
                " with note",
                "task ",
                "#",
                "remind me to ",
                "still still not ",
                "x' 'y ",
            ),
        )
    ),
    "add " + "milk " * 2_000,
    "add " + "milk, " * 1_600,
    "add " + "milk and " * 1_100 + "bread",
    "delete " + "milk and " * 1_100 + "bread",
    "rename " + "a to " * 1_900,
    "mark " + "a as " * 1_900 + "done",
    "is " + "already " * 1_200 + "x",
    "complete " + "a" * 9_000,
    "complete " + "1, " * 3_000,
    "what is " + "left " * 1_900,
    "tell me about " + "you " * 2_000,
    "hi " + "there " * 1_600,
    '"' + "a " * 4_900 + '"',
    "i " + "already " * 1_200 + "finished",
    "delete everything except " + "a " * 4_900,
    "add a note to " + "a " * 4_900 + ": b",
    "no, not " + "a" * 4_900 + "," + "b" * 4_900,
    "🙂" * LONG,
    "добавь " * 1_400,
]


WORDS_TEXT = (
    "add delete complete rename show it the second 2 all everything milk bread and , to as done not no yes "
    'undo meant i my list note : "a b" except first last but what did say if task tasks them both other'
)
WORDS = WORDS_TEXT.split(" ")


class TestOddInput:
    @pytest.mark.parametrize(
        "message", ADVERSARIES, ids=[f"{place}-{text[:12]!r}" for place, text in enumerate(ADVERSARIES)]
    )
    async def test_long_messages_take_no_long_time(self, message: str) -> None:
        conversation = Conversation("milk", "bread", "a", *(f"thing {number}" for number in range(100)))
        start = time.process_time()
        await conversation.say(message)
        assert time.process_time() - start < 20  # some 50 ms; a pattern that backtracks takes minutes

    async def test_long_questions_are_read_back_in_no_long_time(self) -> None:
        conversation = Conversation("milk")
        unit = 'Did you mean "Which one should I rename to "'
        conversation.history = [
            HistoryMessage(role="user", content="hi"),
            HistoryMessage(role="assistant", content=unit * 2_000),
        ]
        start = time.process_time()
        await conversation.say("yes")
        assert time.process_time() - start < 20

    @pytest.mark.slow
    async def test_gibberish_never_raises_and_never_destroys(self) -> None:
        letters = random.Random(20_250_101)
        alphabet = "qwzxvkj ,.!?'\"#-()\n🙂é½"
        for _ in range(1_000):
            conversation = Conversation("milk", "bread", "eggs*")
            for _ in range(2):
                await conversation.say("".join(letters.choices(alphabet, k=letters.randint(0, 60))))
            assert not {call.name for call in conversation.tools.calls} & DESTRUCTIVE

    @pytest.mark.slow
    async def test_words_in_any_order_never_raise(self) -> None:
        chance = random.Random(20_250_102)
        for _ in range(400):
            conversation = Conversation("milk", "bread", "almond milk", "eggs*")
            for _ in range(5):
                assert await conversation.say(" ".join(chance.choices(WORDS, k=chance.randint(1, 8))))
