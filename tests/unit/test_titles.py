"""Titles from words: of a message, and of a model's answer."""

import pytest

from chatapi.conversations.titles import MAX_TITLE, first_words, proposed


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("Can you please add milk to my list? And bread.", "Add milk to my list"),
        ("Hello, could you help me to plan a trip to Rome?", "Plan a trip to Rome"),
        ("Hi!", "Hi"),
        ("**Bold** question: why?", "Bold question: why?"),
        ("No. 5 is alive. Yes", "No. 5 is alive"),
        ("so-called experts", "So-called experts"),
        ("Kannst du bitte Milch auf die Liste setzen?", "Milch auf die Liste setzen"),
        ("¿Puedes añadir leche a la lista?", "Añadir leche a la lista"),
        ("Bonjour, peux-tu traduire ce texte ?", "Traduire ce texte"),
        ("你好,请帮我写一封信", "请帮我写一封信"),
        ("我想学习中文。你能帮我吗", "我想学习中文。你能帮我吗"),
        ("# Notes\n\n- one\n- two", "Notes - one - two"),
        ("🙂", "🙂"),
        ("...", "..."),
        ("\n\tWhat is 2+2?\x07", "What is 2+2?"),
        ("ß", "ß"),
    ],
)
def test_a_title_is_the_first_words_without_courtesies(message: str, title: str) -> None:
    assert first_words(message) == title


@pytest.mark.parametrize(
    "message", ["word " * 200, "x" * 300, "字" * 300, " " * 1_000 + "x", "hi " * 3_000, "\ud800 a"]
)
def test_a_title_of_any_message_is_short_and_not_blank(message: str) -> None:
    title = first_words(message)
    assert 0 < len(title) <= MAX_TITLE
    assert title.strip() == title
    title.encode()


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ('"Trip to Rome"', "Trip to Rome"),
        ("**Title:** Trip to Rome.", "Trip to Rome"),
        ("\n# Reise nach Rom\n\nI hope that helps!", "Reise nach Rom"),
        (
            "A very very long title that goes on and on and on and on and on and on",
            "A very very long title that goes on and on and on and on…",
        ),
        (" \n ", None),
        ("", None),
    ],
)
def test_a_models_title_is_tidied(answer: str, title: str | None) -> None:
    assert proposed(answer) == title
