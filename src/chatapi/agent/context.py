"""How long a history a model takes, in tokens: estimated from its bytes, corrected by what its provider has counted.

No tokenizer is asked: each provider has its own, and a turn would wait for it.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from chatapi.agent.inputs import Attached
from chatapi.agent.ports import HistoryMessage, Prompt, SummaryMessage, Usage
from chatapi.agent.wire.trouble import Trouble

# Of JSON with mostly English text, until a provider has counted; and what a server may say that counts oddly.
TOKENS_PER_BYTE = 0.3
LEAST, MOST = 0.05, 1.5
FILE_BYTES = 5_000  # for a picture or a PDF: some 1,500 tokens, which most providers take for a picture
ANSWER_TOKENS = 4_096  # what an answer takes of the context, if nothing bounds it
SURE_TOKENS = 4_000  # every listed model takes so many
NEARLY = 0.8  # of what a model takes: the turn is then to come for which a summary is ready in time


class Counted(Struct, frozen=True):
    """What a provider has counted of a question of this many bytes (`size_of`)."""

    size: int
    tokens: int

    @property
    def tokens_per_byte(self) -> float:
        return min(max(self.tokens / max(self.size, 1), LEAST), MOST)


class Context:
    """How many tokens one model takes, as far as this process knows.

    `configured` is the operator's word. Without it a model at its provider's own address has what `genai-prices` lists. In
    any case it is less than what a refusal has told, or than what was refused.
    """

    def __init__(self, name: str, *, configured: int | None, is_own: bool) -> None:
        self.counted: Counted | None = None  # the last question of any conversation
        self._name = name
        self._limit = configured
        self._is_to_look_up = is_own and configured is None
        self._refused: float | None = None

    async def room(self, tokens: float, answer: int | None) -> float | None:
        """How many tokens a question may have, if it has so many now; None if nobody knows. `answer` bounds the answer's."""
        if self._is_to_look_up and tokens > SURE_TOKENS:
            self._is_to_look_up = False
            found = await asyncio.to_thread(listed_context, self._name)
            self._limit = min(filter(None, (self._limit, found)), default=None)
        limits = [] if self._refused is None else [self._refused]
        if self._limit is not None:
            limits.append(self._limit - min(answer or ANSWER_TOKENS, self._limit // 4))
        return min(limits, default=None)

    def learn_limit(self, told: int) -> None:
        """A refusal has told how many tokens the model takes."""
        self._limit = min(told, self._limit or told)

    def learn_refused(self, tokens: float) -> None:
        """A question of some `tokens`, by our estimate, was refused as too long, and taken with less of its history."""
        self._refused = min(tokens, self._refused or tokens)


class ShownHistory:
    """The part of a turn's history that one model is shown: all of it, until that is too long."""

    def __init__(self, prompt: Prompt, context: Context, origin: str) -> None:
        pinned = pinned_in(prompt.history)
        self._prompt, self._context, self._origin = prompt, context, origin
        self._summary, self._told = prompt.history[:pinned], prompt.history[pinned:]
        self._left_out = 0  # of those that were told; one too many leaves the summary out, too
        self._falls_next = 0
        self._size = 0  # of the last question
        self._has_files = False  # whether that had files as they are
        self._refused: int | None = None  # the size of the last question that was too long
        self.counted: Counted | None = None  # the last question of this turn

    @property
    def messages(self) -> Sequence[HistoryMessage]:
        """A summary stays, unless it is too long by itself."""
        return () if self._left_out > len(self._told) else [*self._summary, *self._told[self._left_out :]]

    @property
    def left_out(self) -> int:
        """How many messages are left out; those of a summary are not counted."""
        return min(self._left_out, len(self._told))

    @property
    def falls_next(self) -> int:
        """How many messages will soon be left out."""
        return min(self._falls_next, len(self._told))

    async def fits(self, size: int, sizes: Sequence[int], max_tokens: int | None, *, has_files: bool) -> bool:
        """Whether the model is likely to take a question of this size with messages of these; if not, leave some out."""
        self._size, self._has_files = size + sum(sizes), has_files
        tokens = self._size * self._tokens_per_byte
        room = await self._context.room(tokens, max_tokens)
        if room is None or not self.messages:
            return True
        too_many = first_that_fits(self.messages, sizes, room / self._tokens_per_byte - size)
        if tokens < room:
            self._falls_next = self._left_out + too_many if tokens >= NEARLY * room else 0
            return True
        self._left_out += too_many
        return False

    def shorten(self, trouble: Trouble) -> bool:
        """Leave out the older half of the turns, as the last question was too long; False if there is nothing left."""
        if not self.messages:
            return False
        if trouble.context is not None:
            self._context.learn_limit(trouble.context)
        elif trouble.kind == "too-long" and self._is_like_others:
            self._refused = self._size
        self._left_out += half_of(self.messages)
        return True

    def take(self, used: Usage | None) -> None:
        """The model has taken the last question; learn from what it has counted."""
        if used is not None and used.input_tokens:
            self.counted = Counted(self._size, used.input_tokens)
            if not self._has_files:
                self._context.counted = self.counted
        # The shorter history was taken, so it was the history that was too long, and not the message.
        if self._refused is not None:
            self._context.learn_refused(self._refused * self._tokens_per_byte)
            self._refused = None

    @property
    def _is_like_others(self) -> bool:
        """Whether a refusal of the last question holds for others of its length.

        Files have more tokens than our estimate says, and many providers add the caller's limit to the question.
        """
        return not self._has_files and self._prompt.options.max_output_tokens is None

    @property
    def _tokens_per_byte(self) -> float:
        """As the model has counted in this turn, in this conversation, or in any; else a guess."""
        counted = self.counted or counted_of(self._prompt.history, self._origin) or self._context.counted
        return TOKENS_PER_BYTE if counted is None else counted.tokens_per_byte


def listed_context(name: str) -> int | None:
    """The context of a model named as in `CHAT_MODEL`, by `genai-prices`, whose import takes a fifth of a second."""
    from genai_prices.data_snapshot import get_snapshot

    provider, _, model = name.partition(":")
    with suppress(LookupError):
        _, info = get_snapshot().find_provider_model(model, None, provider.removesuffix("-responses"), None)
        context: int | None = info.context_window
        return context
    return None


def counted_of(history: Sequence[HistoryMessage], origin: str) -> Counted | None:
    """What this provider has counted last in the conversation."""
    for message in reversed(history):
        state = message.provider_state
        if isinstance(state, Mapping) and state.get("provider") == origin:
            with suppress(msgspec.ValidationError):
                return msgspec.convert(state.get("counted"), Counted)
    return None


def size_of(value: Any, files: Sequence[Attached] = ()) -> int:
    """The bytes of a text, or of a JSON value, with what is attached to it."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace")) + FILE_BYTES * len(files)
    try:
        return len(msgspec.json.encode(value))
    except UnicodeEncodeError:  # half a surrogate pair of a server's
        return len(repr(value))


def turns_of(history: Sequence[HistoryMessage]) -> Iterator[int]:
    """The places in the history where it can be cut: where a user's message follows an answer, or nothing."""
    for place, message in enumerate(history):
        if message.role == "user" and (place == 0 or history[place - 1].role == "assistant"):
            yield place


def pinned_in(history: Sequence[HistoryMessage]) -> int:
    """How many of a history's first messages stay when it is cut: those of a summary."""
    return 2 if history and isinstance(history[0], SummaryMessage) else 0


def half_of(history: Sequence[HistoryMessage]) -> int:
    """How many messages are left out for the newer half of the turns; all if there is but one.

    A summary's are not counted here. If there is nothing else, one too many says that it is left out, too.
    """
    told = history[pinned_in(history) :]
    turns = list(turns_of(told))
    return turns[-(len(turns) // 2)] if len(turns) > 1 else len(told) or 1


def first_that_fits(history: Sequence[HistoryMessage], sizes: Sequence[int], room: float) -> int:
    """How many messages of a history of these sizes are left out where there is no room for all of it; some are.

    What stays fills half of the room, so that it is the same for turns on end; or it is the last turn, if that fits at all.
    A summary is counted as in `half_of`.
    """
    pinned = pinned_in(history)
    told, left = history[pinned:], sizes[pinned:]
    room -= sum(sizes[:pinned])
    last = len(told) or 1
    for place in filter(None, turns_of(told)):
        rest = sum(left[place:])
        if rest <= room / 2:
            return place
        last = place if rest <= room else len(told)
    return last
