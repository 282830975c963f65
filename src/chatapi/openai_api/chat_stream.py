"""A turn, or what is none, as a chat completion: whole, or as the chunks of a stream.

https://platform.openai.com/docs/api-reference/chat/object, …/chat-streaming. A model's reasoning is `reasoning_content`, as
DeepSeek's API has it: what shows reasoning reads that. Calls of our own tools have no form here and are not shown.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType
from prometheus_client import Gauge

from chatapi.agent.ports import FinishReason, Usage
from chatapi.errors.base import AppError, Defect
from chatapi.openai_api.errors import ErrorResponse, error_of
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, TurnEvent, TurnLog, text_of
from chatapi.turns.schemas import ChatAnswer, Pending, WaitingAnswer
from chatapi.turns.ui_stream import HEARTBEAT

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"

FinishWord: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
FINISH: dict[FinishReason, FinishWord] = {"length": "length", "content-filter": "content_filter"}


class CompletionFunction(Struct, frozen=True):
    name: str
    arguments: str


class CompletionCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that the caller carries out; `index` is there in a stream."""

    id: str
    type: Literal["function"]
    function: CompletionFunction
    index: int | UnsetType = UNSET


class CompletionMessage(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Sequence[CompletionCall] | UnsetType = UNSET


class CompletionChoice(Struct, frozen=True, kw_only=True):
    index: Literal[0] = 0
    message: CompletionMessage
    logprobs: None = None
    finish_reason: FinishWord


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int = 0


class CompletionTokensDetails(Struct, frozen=True):
    """Our models do not tell their reasoning apart; it is part of the completion."""

    reasoning_tokens: int = 0


class CompletionUsage(Struct, frozen=True, kw_only=True):
    """Zeros where the model does not tell what it used."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class ChatCompletion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: Sequence[CompletionChoice]
    usage: CompletionUsage


class Delta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    tool_calls: Sequence[CompletionCall] = ()


class ChunkChoice(Struct, frozen=True, kw_only=True):
    index: Literal[0] = 0
    delta: Delta
    finish_reason: FinishWord | None = None


class Chunk(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: Sequence[ChunkChoice]
    usage: CompletionUsage | UnsetType | None = UNSET


class Telling(Struct, frozen=True, kw_only=True):
    """How an answer is told: its head, and what of the log belongs to it.

    `after_wait`: only what follows the answers to the turn's wait of this number. `with_usage`: a stream tells it.
    """

    id: str
    created: int
    model: str
    after_wait: int = 0
    with_usage: bool = False

    async def whole(self, turn: TurnLog) -> ChatCompletion:
        """The completion, once there is an answer; raises what the turn ended with instead."""
        outcome = await turn.answer()
        events = list(following(turn.events, self.after_wait))
        thought = "".join(event.text for event in events if isinstance(event, ReasoningAdded))
        calls = calls_of(outcome)
        text = text_of(events)
        answer = CompletionMessage(
            content=text or (None if calls else ""),
            reasoning_content=thought or UNSET,
            tool_calls=[tool_call(call) for call in calls] or UNSET,
        )
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[CompletionChoice(message=answer, finish_reason=finish_of(outcome))],
            usage=usage_of(outcome.usage),
        )

    async def stream(self, turn: TurnLog, streams: Gauge, heartbeat: float) -> AsyncIterator[bytes]:
        """The answer as it comes. A stream that fails says so by an error before it is closed."""
        with streams.track_inprogress():
            try:
                yield self._chunk(Delta(role="assistant", content=""))
                deltas = self._around_delta()
                skips = self.after_wait > 0
                async for events in turn.read(heartbeat):
                    if not events:
                        yield HEARTBEAT
                        continue
                    if skips:
                        events = list(following(events, self.after_wait))  # noqa: PLW2901 - the rest was told before
                        skips = not events
                    if told := b"".join(told_of(events, *deltas)):
                        yield told
                yield self._end(turn)
            except Exception:
                log.exception("A defect in a stream")
                yield error_event(Defect("The service failed; the log has the request's id."))

    def _around_delta(self) -> tuple[bytes, bytes]:
        """What stands before and after the delta in each chunk, which is the same in all."""
        before, _, after = self._chunk(Delta()).partition(b'"delta":{}')
        return before + b'"delta":', after

    def _end(self, turn: TurnLog) -> bytes:
        outcome = turn.ended
        if isinstance(outcome, AppError) or outcome is None:
            return error_event(outcome or Defect("The stream ended without an outcome."))
        calls = [tool_call(call, index) for index, call in enumerate(calls_of(outcome))]
        told = [self._chunk(Delta(tool_calls=[call])) for call in calls]
        told.append(self._chunk(Delta(), finish_of(outcome)))
        if self.with_usage:
            told.append(sse(self._envelope([], usage_of(outcome.usage))))
        return b"".join(told) + DONE

    def _chunk(self, delta: Delta, finish: FinishWord | None = None) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish)
        return sse(self._envelope([choice], None if self.with_usage else UNSET))

    def _envelope(self, choices: Sequence[ChunkChoice], usage: CompletionUsage | UnsetType | None) -> Chunk:
        return Chunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage,
        )


def told_of(events: Iterable[TurnEvent], before: bytes, after: bytes) -> Iterator[bytes]:
    """The chunks of these events; of a chunk for each word, only the word is encoded."""
    for event in events:
        match event:
            case TextAdded(text=text) if text:
                yield before + b'{"content":' + msgspec.json.encode(text) + b"}" + after
            case ReasoningAdded(text=text) if text:
                yield before + b'{"reasoning_content":' + msgspec.json.encode(text) + b"}" + after
            case _:
                pass


def following(events: Iterable[TurnEvent], wait: int) -> Iterator[TurnEvent]:
    """The events after the first outcome of a call that was answered in the wait of this number; without one, all."""
    skips = wait > 0
    for event in events:
        if not skips:
            yield event
        elif isinstance(event, ToolEnded) and event.wait >= wait:
            skips = False
            yield event


def calls_of(outcome: ChatAnswer | WaitingAnswer) -> Sequence[Pending]:
    """The calls that the caller is to carry out."""
    return [] if isinstance(outcome, ChatAnswer) else outcome.pending


def tool_call(call: Pending, index: int | UnsetType = UNSET) -> CompletionCall:
    arguments = msgspec.json.encode(call.arguments).decode()
    return CompletionCall(
        id=call.tool_call_id, type="function", function=CompletionFunction(call.name, arguments), index=index
    )


def finish_of(outcome: ChatAnswer | WaitingAnswer) -> FinishWord:
    if isinstance(outcome, WaitingAnswer):
        return "tool_calls"
    return FINISH.get(outcome.finish_reason or "stop", "stop")


def usage_of(used: Usage | UnsetType) -> CompletionUsage:
    if used is UNSET:
        return CompletionUsage()
    return CompletionUsage(
        prompt_tokens=used.input_tokens,
        completion_tokens=used.output_tokens,
        total_tokens=used.input_tokens + used.output_tokens,
        prompt_tokens_details=PromptTokensDetails(used.cached_input_tokens),
    )


def sse(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def error_event(error: AppError) -> bytes:
    return sse(ErrorResponse(error_of(error))) + DONE
