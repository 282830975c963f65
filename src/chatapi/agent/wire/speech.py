"""Cleans a model's text: joins split characters, separates reasoning from the answer, drops line ends at the start."""

from collections.abc import Iterator
from typing import TypeAlias

from chatapi.agent.ports import ReasoningDelta, TextDelta, TextWasReasoning

Said: TypeAlias = TextDelta | ReasoningDelta | TextWasReasoning

OPENING, CLOSING = "<think>", "</think>"
QUOTES = "`'\"«“"  # before a tag that is only mentioned


class WholeCharacters:
    """Joins the halves of a surrogate pair from two pieces; a half without its other half becomes U+FFFD.

    JSON may write characters beyond U+FFFF as two escapes, and some servers cut a text between them.
    """

    def __init__(self) -> None:
        self._half = ""

    def take(self, piece: str) -> str:
        if not self._half and piece.isascii():
            return piece
        piece = self._half + piece
        self._half = ""
        if "\ud800" <= piece[-1:] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        return mended(piece)

    def rest(self) -> str:
        half, self._half = self._half, ""
        return mended(half)


def mended(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Speech:
    """One answer of a model, piece by piece.

    A text that begins with `<think>` is reasoning up to `</think>`. A lone `</think>` means that the model's template
    wrote the opening tag: all text before it was reasoning, and `TextWasReasoning` says so. `is_opened` is true from
    the start if this is known of the model, and becomes true when it turns out so.
    """

    def __init__(self, *, is_opened: bool = False) -> None:
        self.is_opened = is_opened
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._pending = ""  # may begin a tag, or be line ends at the text's start
        self._state = "thinking" if is_opened else "beginning"
        self._closed = False
        self._spoken = WholeCharacters()
        self._thought = WholeCharacters()

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._thoughts)

    def say(self, piece: str) -> Iterator[Said]:
        """Take a piece that the server calls text."""
        piece = self._spoken.take(piece)
        if self._state == "saying" and not self._pending and (self._closed or "<" not in piece):
            if piece:  # nearly every piece
                self._text.append(piece)
                yield TextDelta(piece)
            return
        self._pending += piece
        yield from self._sort(at_end=False)

    def think(self, piece: str) -> Iterator[Said]:
        """Take a piece that the server calls reasoning; such a server separates the two itself."""
        if piece := self._thought.take(piece):
            if self._state == "thinking" and self.is_opened:
                self._state, self.is_opened = "beginning", False
            yield self._reasoned(piece)

    def end(self) -> Iterator[Said]:
        """Give the text that was held back, once no more will come."""
        if rest := self._thought.rest():
            yield self._reasoned(rest)
        self._pending += self._spoken.rest()
        yield from self._sort(at_end=True)
        if self.is_opened and not self._closed:  # `is_opened` was wrong: all of it was the answer
            self.is_opened = False
            answer = self.reasoning.lstrip("\r\n")
            self._thoughts.clear()
            if answer:
                self._text.append(answer)
                yield TextDelta(answer)

    def _sort(self, *, at_end: bool) -> Iterator[Said]:
        if self._state == "beginning":
            start = self._pending.lstrip()
            if not at_end and OPENING.startswith(start):
                return
            if start.startswith(OPENING):
                self._state, self._pending = "thinking", start.removeprefix(OPENING)
            else:
                self._state, self._pending = "saying", self._pending.lstrip("\r\n")
        if self._state == "thinking":
            yield from self._sort_thoughts(at_end=at_end)
        if self._state == "after":
            self._pending = self._pending.lstrip()
            self._state = "saying" if self._pending else "after"
        if self._state == "saying":
            yield from self._sort_words(at_end=at_end)

    def _sort_thoughts(self, *, at_end: bool) -> Iterator[Said]:
        thoughts, tag, rest = self._pending.partition(CLOSING)
        self._pending = ""
        if tag:
            self._state, self._pending, self._closed = "after", rest, True
        elif not at_end:
            thoughts, self._pending = without_half_a_tag(thoughts)
        if not self._thoughts:
            thoughts = thoughts.lstrip("\r\n")
        if thoughts:
            yield self._reasoned(thoughts)

    def _sort_words(self, *, at_end: bool) -> Iterator[Said]:
        words, tag, rest = self._pending.partition(CLOSING)
        if self._closed or not tag or (words or self.text)[-1:] in set(QUOTES):
            words, self._pending = (self._pending, "") if at_end else without_half_a_tag(self._pending)
            if words:
                self._text.append(words)
                yield TextDelta(words)
            return
        if words:
            self._text.append(words)
            yield TextDelta(words)
        self._closed = True
        self._state, self._pending = "after", rest
        if self._text:
            self._thoughts.append(self.text)
            self._text.clear()
            self.is_opened = True
            yield TextWasReasoning()
        yield from self._sort(at_end=at_end)

    def _reasoned(self, piece: str) -> ReasoningDelta:
        self._thoughts.append(piece)
        return ReasoningDelta(piece)


def without_half_a_tag(text: str) -> tuple[str, str]:
    """Split off an end of the text that may be the beginning of `</think>`."""
    start = text.rfind("<", max(0, len(text) - len(CLOSING) + 1))
    if start >= 0 and CLOSING.startswith(text[start:]):
        return text[:start], text[start:]
    return text, ""
