"""The offline assistant looks up what was said before, in any conversation of its user."""

from uuid import uuid4

import pytest

from chatapi.offline import OfflineAgent
from chatapi.offline.intents import SearchSaid
from chatapi.offline.understanding import understand
from tests.support.serving import Client, serve, settings_for


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("What did we say about the rent?", "rent"),
        ("what have I told you about my sister's birthday before", "sister's birthday"),
        ("Remind me what you said about Rome", "Rome"),
        ("when did we talk about Rome?", "Rome"),
        ("Did I ever mention anything about a dentist?", "dentist"),
        ("search my conversations for blue paint", "blue paint"),
        ("search for blue paint in our chats", "blue paint"),
    ],
)
def test_is_asked_in_many_ways(message: str, text: str) -> None:
    (clause,) = understand(message)
    assert clause.intent == SearchSaid(text)


@pytest.mark.parametrize(
    "message", ["what did I say first", "what did we talk about", "what did you say", "find milk"]
)
def test_other_questions_are_still_others(message: str) -> None:
    assert not any(isinstance(clause.intent, SearchSaid) for clause in understand(message))


async def test_is_answered_from_other_conversations_but_not_from_such_questions(database_url: str) -> None:
    async with (
        serve(settings_for(database_url, titles="auto"), OfflineAgent()) as url,
        Client(url, f"offline-{uuid4().hex}") as alice,
        Client(url, f"offline-{uuid4().hex}") as bob,
    ):
        await bob.said("The rent of Bob is due")
        await alice.said("Remind me to pay the rent")
        for _ in range(2):
            answer = await alice.said("What did we say about the rent?")
            assert [call["name"] for call in answer["tool_calls"]] == ["search_conversations"]
            first, *lines = answer["response"].splitlines()
            assert first == 'This is what I found about "rent":'
            assert len(lines) == 2
            assert all(' in "Remind me to pay the rent", ' in line for line in lines)
            assert {line.partition(", ")[2] for line in lines} == {
                'you said: "Remind me to pay the rent"',
                'I said: "Added "pay the rent"."',
            }
        nothing = await alice.said("What did we say about zebras?")
        assert nothing["response"] == 'I found nothing about "zebras" in your conversations.'
