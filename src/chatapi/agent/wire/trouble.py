"""Why a model gave no answer, and the error that the caller gets. The provider's own words go at most to the log."""

import re
from collections.abc import Sequence
from math import ceil
from typing import Literal, TypeAlias

from chatapi.errors.base import AppError
from chatapi.errors.models import (
    MessageTooLong,
    ModelBusy,
    ModelEmpty,
    ModelFailed,
    ModelFiltered,
    ModelMisconfigured,
    ModelTooSlow,
    ModelTruncated,
)

Kind: TypeAlias = Literal[
    "busy",  # rate-limited or overloaded
    "down",  # another error on the provider's side
    "away",  # no connection, or one that broke
    "slow",  # no answer within the time that this model has
    "broken",  # an answer that cannot be read or has no end
    "no-events",  # a stream that ended before its first event
    "unusable",  # not an answer: a malformed call, no candidate, an error instead of a beginning
    "empty",  # no text and no call
    "too-long",  # the history and the message exceed the model's context
    "too-large",  # the request exceeds another limit, as of bytes
    "filtered",
    "refused",  # the request or the key is wrong
]
# The same request may succeed with another model, or later.
PASSING: frozenset[Kind] = frozenset({"busy", "down", "away", "slow", "broken"})
# The same request may succeed at once: a model's answers vary.
MAY_DIFFER: frozenset[Kind] = frozenset({"no-events", "unusable", "empty"})
# The same request may succeed with a shorter history.
TOO_MUCH: frozenset[Kind] = frozenset({"too-long", "too-large"})

BUSY_STATUS = {429, 503, 529}  # 529 is Anthropic's "overloaded"
PASSING_STATUS = {408, 409}  # of the statuses below 500
BUSY_SECONDS = 5  # if the provider gives no delay
SENTENCE_CHARACTERS = 200
QUOTED_CHARACTERS = 12  # so many consecutive characters of the user's are a quotation

TOO_LARGE_CODE = "request_too_large"  # Anthropic's, of bytes
# OpenAI (429) and Groq (413), of a request that has more tokens than may be sent in a minute: to wait is of no use.
TOO_LARGE_WORDS = re.compile(r"request too large", re.IGNORECASE)
TOO_LONG_CODES = {"context_length_exceeded", "exceed_context_size_error"}
TOO_LONG_WORDS = re.compile(
    r"context (length|window|size|limit)|maximum context|maximum model length|n_ctx|prompt is too long|input is too long"
    r"|too many (input |prompt )?tokens|(input|prompt) token count.*exceeds|exceeds the (maximum|max|model)"
    r"|maximum prompt length|exceeded model token limit|range of input length|exceeds max length",
    re.IGNORECASE,
)
# OpenAI, vLLM and xAI; Mistral; Anthropic, of the input alone and with the answer; Gemini; llama-server; Kimi; Qwen; LM Studio.
CONTEXT_TOLD = re.compile(
    r"maximum (?:context|model|prompt) length (?:is|of) (\d+)|(\d+) maximum context length|> (\d+) maximum"
    r"|context limit: .*> (\d+)|tokens allowed \((\d+)\)|context size \((\d+)|model token limit: (\d+)"
    r"|range of input length should be \[\d+, (\d+)|context length of only (\d+)|n_ctx: (\d+)",
    re.IGNORECASE,
)
FILTER_CODES = {"content_filter", "ResponsibleAIPolicyViolation", "content_policy_violation"}


class Trouble(Exception):
    """A model gave no answer. `codes` and `sentence` are the provider's own words, for the log.

    `status` is the HTTP status of a refusal; `retry_after` is in seconds. `context` is the model's, in tokens, if it was told.
    """

    def __init__(
        self,
        kind: Kind,
        sentence: str = "",
        *,
        status: int | None = None,
        codes: Sequence[str] = (),
        retry_after: float | None = None,
        context: int | None = None,
    ) -> None:
        super().__init__(kind)
        self.kind: Kind = kind
        self.sentence = sentence
        self.status = status
        self.codes = tuple(codes)
        self.retry_after = retry_after
        self.context = context

    def words(self, secrets: Sequence[str], said: Sequence[str]) -> str:
        """The provider's words for the log, without `secrets` and without quotations from `said`."""
        sentence = " ".join(self.sentence.split())
        for secret in secrets:
            sentence = sentence.replace(secret, "…")
        sentence = without_quotations(sentence, said)[:SENTENCE_CHARACTERS]
        parts = [str(self.status) if self.status else self.kind, *self.codes, sentence]
        return " ".join(part for part in parts if part)


def without_quotations(sentence: str, said: Sequence[str]) -> str:
    """The sentence with `…` for each run of characters that is also in one of the texts."""
    texts = [" ".join(text.split()) for text in said]
    for short in sorted({text for text in texts if 0 < len(text) < QUOTED_CHARACTERS}, key=len, reverse=True):
        sentence = re.sub(rf"(?<!\w){re.escape(short)}(?!\w)", "…", sentence)
    kept, position = "", 0
    while position < len(sentence):
        window = sentence[position : position + QUOTED_CHARACTERS]
        source = next((text for text in texts if len(window) == QUOTED_CHARACTERS and window in text), None)
        if source is None:
            kept += sentence[position]
            position += 1
            continue
        end = position + QUOTED_CHARACTERS
        while end < len(sentence) and sentence[position : end + 1] in source:
            end += 1
        kept += "…"
        position = end
    return kept


def refusal(
    status: int,
    codes: Sequence[str],
    sentence: str,
    retry_after: float | None,
    *,
    context: int | None = None,
) -> Trouble:
    """The trouble that an error response means, in any format; `context`, if it is told beside the sentence."""
    kind: Kind
    if FILTER_CODES & set(codes):
        kind = "filtered"
    elif is_too_large(codes, sentence):
        kind = "too-large"
    elif status in BUSY_STATUS:
        kind = "busy"
    elif status in {400, 413, 422} and is_too_long(codes, sentence):
        kind = "too-long"
    elif status == 413:
        kind = "too-large"
    elif status >= 500 or status in PASSING_STATUS:
        kind = "down"
    else:
        kind = "refused"
    if context is None:
        context = context_in(sentence)
    return Trouble(kind, sentence, status=status, codes=codes, retry_after=retry_after, context=context)


def told_in_stream(codes: Sequence[str], sentence: str, *, began: bool) -> Trouble:
    """The trouble for an error object that comes instead of a stream's next event."""
    kind: Kind
    if FILTER_CODES & set(codes):
        kind = "filtered"
    elif is_too_large(codes, sentence):
        kind = "too-large"
    elif any(code.partition("_")[0] in {"overloaded", "rate", "429", "529"} for code in codes):
        kind = "busy"
    elif is_too_long(codes, sentence):
        kind = "too-long"
    else:
        kind = "down" if began else "unusable"
    return Trouble(kind, sentence, codes=codes, context=context_in(sentence))


def is_too_large(codes: Sequence[str], sentence: str) -> bool:
    return TOO_LARGE_CODE in codes or TOO_LARGE_WORDS.search(sentence) is not None


def is_too_long(codes: Sequence[str], sentence: str) -> bool:
    return bool(TOO_LONG_CODES & set(codes)) or TOO_LONG_WORDS.search(sentence) is not None


def context_in(sentence: str) -> int | None:
    """How many tokens the model takes, if the sentence says so."""
    found = CONTEXT_TOLD.search(sentence)
    return int(next(filter(None, found.groups()))) if found else None


def failure_of(trouble: Trouble, *, began: bool) -> AppError:
    """The error that a client sees; `began`: a piece of the answer had arrived."""
    if trouble.kind == "busy":
        delay = BUSY_SECONDS if trouble.retry_after is None else max(1, ceil(trouble.retry_after))
        return ModelBusy("The model is busy; try again shortly.", retry_after=delay)
    if began and trouble.kind in {"away", "broken"}:
        return ModelTruncated("The model's answer broke off.")
    kind, detail = FAILURES.get(trouble.kind, UNUSABLE)
    return kind(detail)


UNUSABLE: tuple[type[AppError], str] = (ModelFailed, "The model gave an answer that cannot be used.")
TOO_LONG: tuple[type[AppError], str] = (
    MessageTooLong,
    "The message is longer than the model takes; send a shorter one.",
)
FAILURES: dict[Kind, tuple[type[AppError], str]] = {
    "away": (ModelFailed, "The model could not be reached."),
    "down": (ModelFailed, "The model failed to answer."),
    "slow": (ModelTooSlow, "The model did not answer in time."),
    "empty": (ModelEmpty, "The model gave an empty answer."),
    "too-long": TOO_LONG,
    "too-large": TOO_LONG,
    "filtered": (ModelFiltered, "The model's provider refused to answer this message."),
    "refused": (ModelMisconfigured, "The model's provider refused the service's request."),
}
