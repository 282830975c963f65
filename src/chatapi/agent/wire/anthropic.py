"""Anthropic's Messages API: https://docs.anthropic.com/en/api/messages, streaming in …/build-with-claude/streaming"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Struct

from chatapi.agent.inputs import PDF, Attached
from chatapi.agent.ports import FinishReason, ModelUsage, OneTool, OptionName, Options, ToolCall
from chatapi.agent.wire.formats import (
    Answer,
    Call,
    CallIds,
    JSONObject,
    Question,
    Request,
    arguments_of,
    base64_of,
    changed,
    decoded,
    error_told,
    error_words,
    given,
    outcome_text,
    retry_after,
)
from chatapi.agent.wire.marks import MARK, marked
from chatapi.agent.wire.speech import Said, Speech, mended
from chatapi.agent.wire.trouble import Trouble, refusal

VERSION = "2023-06-01"
# The API requires a limit. It refuses one above the model's and names the model's, which `adapt` then takes.
MAX_TOKENS = 64_000
ABOVE_LIMIT = re.compile(r"max_tokens: \d+ > (\d+)")
REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool-calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
}


# The API has no `minimal`; `none` is no thinking at all.
EFFORTS = {each: each for each in ("low", "medium", "high", "xhigh", "max")} | {"minimal": "low"}


class Block(Struct, omit_defaults=True):
    """A content block as it begins; `data` is the encrypted reasoning of a redacted block."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class Delta(Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class Tokens(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class Message(Struct):
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: Tokens | None = None
    error: Any = None


class Event(Struct):
    type: str
    index: int | None = None
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Tokens | None = None
    error: Any = None


decode_event = msgspec.json.Decoder(Event).decode
decode_message = msgspec.json.Decoder(Message).decode


class Messages:
    """Implements `formats.Format`."""

    options: frozenset[OptionName] = frozenset(get_args(OptionName)) - {
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "verbosity",
        "json_object",
    }

    def __init__(self, key: str | None) -> None:
        self.headers: Mapping[str, str] = {"anthropic-version": VERSION} | (
            {} if key is None else {"x-api-key": key}
        )
        self._limit = MAX_TOKENS

    def request(self, question: Question) -> Request:
        body: JSONObject = {
            "model": question.model,
            "max_tokens": min(question.max_tokens or self._limit, self._limit),
            "system": question.instructions,
            "messages": list(question.messages),
        }
        if question.cache_key is not None:
            # The tools come before the system's text.
            body["system"] = [text_block(question.instructions) | MARK]
            body["messages"] = marked(question.messages)
        if question.stream:
            body["stream"] = True
        options = question.options
        wanted = options.json and {"type": "json_schema", "schema": options.json.schema}
        body |= given(
            temperature=options.temperature,
            top_p=options.top_p,
            stop_sequences=list(options.stop) or None,
            output_config=given(effort=EFFORTS.get(options.reasoning_effort or ""), format=wanted) or None,
            thinking={"type": "disabled"} if options.reasoning_effort == "none" else None,
            metadata=given(user_id=options.safety_identifier or options.user) or None,
        )
        if question.tools:
            body |= given(tool_choice=choice_of(options))
            body["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
                for tool in question.tools
            ]
        return Request(path="/v1/messages", headers=self.headers, body=body)

    def reader(self, speech: Speech) -> "MessageReader":
        return MessageReader(speech)

    def user(self, text: str, files: Sequence[Attached] = ()) -> JSONObject:
        words = [text_block(text)] if text or not files else []
        return {"role": "user", "content": [*map(source_block, files), *words]}

    def said(self, text: str) -> JSONObject:
        return {"role": "assistant", "content": [text_block(text)]}

    def called(self, calls: Sequence[Call], text: str = "") -> Sequence[JSONObject]:
        said = [text_block(text)] if text else []
        return [{"role": "assistant", "content": [*said, *(tool_use(call) for call in calls)]}]

    def results(self, results: Sequence[tuple[Call, ToolCall]]) -> Sequence[JSONObject]:
        return [
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": call.id,
                        "content": outcome_text(made),
                        **({} if made.error is UNSET else {"is_error": True}),
                    }
                    for call, made in results
                ],
            }
        ]

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
        codes, sentence, _ = error_words(body)
        return refusal(status, codes, sentence, retry_after(headers))

    def adapt(self, request: Request, trouble: Trouble) -> Request | None:
        if (found := ABOVE_LIMIT.search(trouble.sentence)) is None:
            return None
        self._limit = min(self._limit, int(found[1]))
        return changed(request, {**request.body, "max_tokens": min(request.body["max_tokens"], self._limit)})


def choice_of(options: Options) -> JSONObject | None:
    """The choice; one call at a time is part of it, and holds for `auto`, too."""
    if options.tool_choice == "none":
        return {"type": "none"}
    alone = {"disable_parallel_tool_use": True} if options.parallel_tool_calls is False else {}
    match options.tool_choice:
        case OneTool(name):
            return {"type": "tool", "name": name, **alone}
        case "required":
            return {"type": "any", **alone}
    return {"type": "auto", **alone} if alone or options.tool_choice else None


def text_block(text: str) -> JSONObject:
    return {"type": "text", "text": text}


def source_block(file: Attached) -> JSONObject:
    source = {"type": "base64", "media_type": file.media_type, "data": base64_of(file)}
    if file.media_type == PDF:
        return {"type": "document", "source": source, "title": file.name}
    return {"type": "image", "source": source}


def tool_use(call: Call) -> JSONObject:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments or {}}


class MessageReader:
    def __init__(self, speech: Speech) -> None:
        self.began = False
        self.is_whole = False
        self._speech = speech
        self._blocks: dict[int, Block] = {}
        self._arguments: dict[int, str] = {}
        self._stop: str | None = None
        self._uncached = self._cached = self._written = self._output = 0
        self._has_usage = False

    @property
    def is_over(self) -> bool:
        return self.is_whole

    def event(self, data: bytes) -> Iterator[Said]:
        event = decoded(decode_event, Event, data)
        match event.type:
            case "message_start" if event.message is not None:
                self._count(event.message.usage)
            case "content_block_start" if event.content_block is not None:
                self.began = self.began or event.content_block.type == "tool_use"
                self._blocks[event.index or 0] = event.content_block
                yield from self._started(event.content_block)
            case "content_block_delta" if event.delta is not None:
                yield from self._continued(event.index or 0, event.delta)
            case "message_delta":
                self._stop = (event.delta and event.delta.stop_reason) or self._stop
                self._count(event.usage)
            case "message_stop":
                self.is_whole = True
            case "error":
                raise error_told(event.error, began=self.began)

    def whole(self, body: bytes) -> Iterator[Said]:
        message = decoded(decode_message, Message, body)
        if message.error is not None:
            raise error_told(message.error, began=False)
        self.is_whole, self._stop = True, message.stop_reason
        self._count(message.usage)
        for index, block in enumerate(message.content or []):
            self._blocks[index] = block
            yield from self._started(block)

    def _started(self, block: Block) -> Iterator[Said]:
        if block.text:
            self.began = True
            yield from self._speech.say(block.text)
        if block.thinking:
            self.began = True
            yield from self._speech.think(block.thinking)

    def _continued(self, index: int, delta: Delta) -> Iterator[Said]:
        block = self._blocks.setdefault(index, Block(type="text"))
        self.began = True
        if delta.text:
            block.text = (block.text or "") + delta.text
            yield from self._speech.say(delta.text)
        if delta.thinking:
            block.thinking = (block.thinking or "") + delta.thinking
            yield from self._speech.think(delta.thinking)
        if delta.signature:
            block.signature = (block.signature or "") + delta.signature
        if delta.partial_json:
            self._arguments[index] = self._arguments.get(index, "") + delta.partial_json

    def _count(self, tokens: Tokens | None) -> None:
        """Later events' counts replace earlier ones; `input_tokens` is without those of the cache, which are input, too."""
        if tokens is None:
            return
        self._has_usage = True
        if tokens.input_tokens is not None:
            self._uncached = tokens.input_tokens
        if tokens.cache_read_input_tokens is not None:
            self._cached = tokens.cache_read_input_tokens
        if tokens.cache_creation_input_tokens is not None:
            self._written = tokens.cache_creation_input_tokens
        self._output = tokens.output_tokens or self._output

    @property
    def usage(self) -> ModelUsage | None:
        if not self._has_usage:
            return None
        return ModelUsage(
            input_tokens=self._uncached + self._cached + self._written,
            output_tokens=self._output,
            cached_input_tokens=self._cached,
            cache_write_tokens=self._written,
        )

    def answer(self, ids: CallIds) -> Answer:
        if not self.is_whole:
            raise Trouble("broken", "no message_stop")
        reason = REASONS.get(self._stop or "", "other")
        if reason == "content-filter":
            raise Trouble("filtered")
        calls: list[Call] = []
        content: list[JSONObject] = []
        for index, block in sorted(self._blocks.items()):
            if block.type == "tool_use":
                calls.append(self._call(index, block, ids))
                content.append(tool_use(calls[-1]))
            # The API refuses empty texts, even its own.
            elif block.type == "text" and (block.text or "").strip():
                content.append(text_block(block.text or ""))
            elif block.type == "thinking":
                content.append(
                    {"type": "thinking", "thinking": block.thinking or "", "signature": block.signature or ""}
                )
            elif block.type == "redacted_thinking":
                content.append({"type": "redacted_thinking", "data": block.data})
        return Answer(
            text=self._speech.text,
            calls=calls,
            reason="tool-calls" if calls and reason in {"stop", "other"} else reason,
            messages=[{"role": "assistant", "content": content}],
        )

    def _call(self, index: int, block: Block, ids: CallIds) -> Call:
        text = self._arguments.get(index, "")
        whole = block.input if isinstance(block.input, dict) else None
        arguments = arguments_of(mended(text)) if text or block.input is None else whole
        return Call(
            id=ids.of(block.id or "", f"{index} {block.name} {text}"),
            name=block.name or "",
            arguments=arguments,
        )
