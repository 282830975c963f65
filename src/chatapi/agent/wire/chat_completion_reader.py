"""Reads the answers of Chat Completions.

Extensions that are read: `reasoning_content` and `reasoning` (DeepSeek, vLLM, llama.cpp, OpenRouter), content in parts
(Mistral), and a call's `extra_content` (Gemini's signatures behind this API).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from chatapi.agent.ports import FinishReason, ModelUsage
from chatapi.agent.wire.formats import (
    Answer,
    Call,
    CallIds,
    JSONObject,
    arguments_of,
    decoded,
    error_told,
    to_text,
)
from chatapi.agent.wire.speech import Said, Speech, mended
from chatapi.agent.wire.trouble import Trouble

DONE = b"[DONE]"
REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "model_length": "length",  # Mistral, for the end of its context
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
}
# The server broke off: OpenRouter, Mistral and vLLM; vLLM and SGLang; DeepSeek.
BROKEN_OFF = {"error", "abort", "insufficient_system_resource"}


class Function(Struct):
    name: str | None = None
    arguments: str | JSONObject | None = None


class ToolCallDelta(Struct):
    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: JSONObject | None = None


class ContentPart(Struct):
    type: str
    text: str | None = None
    thinking: list["ContentPart"] | None = None


class Delta(Struct):
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class Choice(Struct):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class PromptDetails(Struct):
    cached_tokens: int | None = None


class Tokens(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek
    cached_tokens: int | None = None  # Moonshot


class Chunk(Struct):
    """A chunk of a stream, or a whole completion, whose choice has a `message`."""

    choices: list[Choice] | None = None
    usage: Tokens | None = None
    error: Any = None


decode = msgspec.json.Decoder(Chunk).decode


class OpenCall:
    """A call whose pieces are still arriving."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments = ""
        self.extra: JSONObject | None = None

    @property
    def is_complete(self) -> bool:
        return bool(self.arguments) and arguments_of(self.arguments) is not None

    def add(self, piece: ToolCallDelta) -> None:
        self.id = piece.id or self.id
        self.extra = piece.extra_content or self.extra
        if piece.function is not None:
            self.name = piece.function.name or self.name
            arguments = piece.function.arguments
            self.arguments += arguments if isinstance(arguments, str) else to_text(arguments or {})


class ChatCompletionReader:
    """`keeps_thoughts`: those of an answer without calls go back, too."""

    def __init__(self, speech: Speech, *, keeps_thoughts: bool) -> None:
        self.began = False
        self.is_over = False
        self._speech = speech
        self._keeps_thoughts = keeps_thoughts
        self._calls: list[OpenCall] = []
        self._finish: str | None = None
        self._usage: Tokens | None = None
        self._had_choice = False
        self._thoughts_member = "reasoning_content"
        self._thoughts: list[str] = []

    @property
    def is_whole(self) -> bool:
        return self._finish is not None

    def event(self, data: bytes) -> Iterator[Said]:
        if data.strip() == DONE:
            self.is_over = True
            return
        yield from self._take(decoded(decode, Chunk, data))

    def whole(self, body: bytes) -> Iterator[Said]:
        yield from self._take(decoded(decode, Chunk, body))
        self.is_over = True

    def _take(self, chunk: Chunk) -> Iterator[Said]:
        if chunk.error is not None:
            raise error_told(chunk.error, began=self.began)
        self._usage = chunk.usage or self._usage
        for choice in (chunk.choices or [])[:1]:
            self._had_choice = True
            self._finish = choice.finish_reason or self._finish
            if (delta := choice.delta or choice.message) is not None:
                yield from self._said(delta)

    def _said(self, delta: Delta) -> Iterator[Said]:
        if thought := delta.reasoning_content or delta.reasoning:
            self.began = True
            self._thoughts_member = "reasoning_content" if delta.reasoning_content else "reasoning"
            self._thoughts.append(thought)
            yield from self._speech.think(thought)
        content = delta.content or delta.refusal
        if isinstance(content, str):
            self.began = True
            yield from self._speech.say(content)
        for part in content if isinstance(content, list) else []:
            self.began = True
            for thought_part in part.thinking or []:
                yield from self._speech.think(thought_part.text or "")
            if part.text:
                yield from self._speech.say(part.text)
        for piece in delta.tool_calls or []:
            self.began = True
            self._call_of(piece).add(piece)

    def _call_of(self, piece: ToolCallDelta) -> OpenCall:
        """The call that a piece belongs to.

        Some servers send no index, or the same for all calls, or repeat id and name in each piece, or send no id.
        """
        name = piece.function.name if piece.function is not None else None
        for call in reversed(self._calls):
            if piece.index is not None and call.index is not None and call.index != piece.index:
                continue
            if not name or not call.name:
                return call
            has_another_id = bool(piece.id and call.id) and piece.id != call.id
            if has_another_id or name != call.name or call.is_complete:
                break
            return call
        call = OpenCall(piece.index)
        self._calls.append(call)
        return call

    def answer(self, ids: CallIds) -> Answer:
        if self._finish is None:
            if self.is_over and not self.began:
                raise Trouble("empty" if self._had_choice else "unusable")
            raise Trouble("broken", "no finish_reason")
        if self._finish in BROKEN_OFF:
            raise Trouble("broken", self._finish)
        reason = REASONS.get(self._finish, "other")
        if reason == "content-filter":
            raise Trouble("filtered")
        calls = [
            Call(
                id=ids.of(call.id, f"{place} {call.name} {call.arguments}"),
                name=call.name,
                arguments=arguments_of(mended(call.arguments)),
            )
            for place, call in enumerate(self._calls)
        ]
        return Answer(
            text=self._speech.text,
            calls=calls,
            reason="tool-calls" if calls and reason in {"stop", "other"} else reason,
            messages=[self._message(calls)],
        )

    def _message(self, calls: Sequence[Call]) -> JSONObject:
        message: JSONObject = {"role": "assistant", "content": self._speech.text}
        if calls:
            message["tool_calls"] = [
                tool_call(call) if read.extra is None else {**tool_call(call), "extra_content": read.extra}
                for call, read in zip(calls, self._calls, strict=True)
            ]
        # DeepSeek and others want these back until the calls are answered, and some for ever.
        if self._thoughts and (calls or self._keeps_thoughts):
            message[self._thoughts_member] = "".join(self._thoughts)
        return message

    @property
    def usage(self) -> ModelUsage | None:
        if self._usage is None:
            return None
        details, used = self._usage.prompt_tokens_details, self._usage
        cached = (details and details.cached_tokens) or used.prompt_cache_hit_tokens or used.cached_tokens
        return ModelUsage(
            input_tokens=used.prompt_tokens or 0,
            output_tokens=used.completion_tokens or 0,
            cached_input_tokens=cached or 0,
        )


def tool_call(call: Call) -> JSONObject:
    function = {"name": call.name, "arguments": to_text(call.arguments or {})}
    return {"id": call.id, "type": "function", "function": function}
