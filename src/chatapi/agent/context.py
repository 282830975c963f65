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
from chatapi.agent.ports import HistoryMessage, SummaryMessage

# Of JSON with mostly English text, until a provider has counted; and what a server may say that counts oddly.
TOKENS_PER_BYTE = 0.3
LEAST, MOST = 0.05, 1.5
FILE_BYTES = 5_000  # for a picture or a PDF: some 1,500 tokens, which most providers take for a picture
ANSWER_TOKENS = 4_096  # what an answer takes of the context, if nothing bounds it
SURE_TOKENS = 4_000  # every listed model takes so many


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

    def learn(self, told: int | None, tokens: float) -> None:
        """A question of some `tokens`, by our estimate, was refused as too long; `told` is the limit, if that was told."""
        if told is not None:
            self._limit = min(told, self._limit or told)
        else:
            self._refused = min(tokens, self._refused or tokens)


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
