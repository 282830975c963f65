"""OpenAI's Chat Completions, and every server that is compatible with it.

https://platform.openai.com/docs/api-reference/chat. Extensions that are read: `reasoning_content` and `reasoning`
(DeepSeek, vLLM, llama.cpp, OpenRouter), content in parts (Mistral), and a call's `extra_content` (Gemini's signatures
behind this API).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import Struct

from chatapi.agent.inputs import PDF, Attached
from chatapi.agent.ports import FinishReason, JSONFormat, ModelUsage, OneTool, OptionName, Options, ToolCall
from chatapi.agent.wire.formats import (
    Answer,
    Call,
    CallIds,
    JSONObject,
    Question,
    Request,
    arguments_of,
    context_told,
    data_url,
    decoded,
    error_words,
    given,
    outcome_text,
    retry_after,
    schema_of,
    to_text,
    words_of_error,
)
from chatapi.agent.wire.speech import Said, Speech, mended
from chatapi.agent.wire.trouble import Trouble, refusal, told_in_stream

DONE = b"[DONE]"
REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
}


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


class ChatCompletions:
    """Implements `formats.Format`. `is_openai`: OpenAI's own API rather than a compatible one."""

    options: frozenset[OptionName] = frozenset(get_args(OptionName))

    def __init__(self, key: str | None, *, is_openai: bool) -> None:
        self.headers: Mapping[str, str] = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._limit = "max_completion_tokens" if is_openai else "max_tokens"
        self._is_openai = is_openai

    def request(self, question: Question) -> Request:
        system = {"role": "system", "content": question.instructions}
        body: JSONObject = {"model": question.model, "messages": [system, *question.messages]}
        if question.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        # Other servers may refuse what they do not know.
        key = question.cache_key if self._is_openai else None
        body |= given(**{self._limit: question.max_tokens}, prompt_cache_key=key) | chosen(question.options)
        if question.tools:
            body |= given(
                tool_choice=choice_of(question.options),
                parallel_tool_calls=question.options.parallel_tool_calls,
            )
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": tool.parameters,
                    },
                }
                for tool in question.tools
            ]
        return Request(path="/chat/completions", headers=self.headers, body=body)

    def reader(self, speech: Speech) -> "ChatCompletionReader":
        return ChatCompletionReader(speech)

    def user(self, text: str, files: Sequence[Attached] = ()) -> JSONObject:
        if not files:
            return {"role": "user", "content": text}
        words = [{"type": "text", "text": text}] if text else []
        return {"role": "user", "content": [*map(file_part, files), *words]}

    def said(self, text: str) -> JSONObject:
        return {"role": "assistant", "content": text}

    def called(self, calls: Sequence[Call], text: str = "") -> Sequence[JSONObject]:
        # An empty text and not null: some servers and templates accept only text.
        return [{"role": "assistant", "content": text, "tool_calls": [tool_call(call) for call in calls]}]

    def results(self, results: Sequence[tuple[Call, ToolCall]]) -> Sequence[JSONObject]:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": outcome_text(made)} for call, made in results
        ]

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
        codes, sentence, value = error_words(body)
        return refusal(status, codes, sentence, retry_after(headers), context=context_told(value))

    def adapt(self, _: Trouble) -> bool:
        return False


def chosen(options: Options) -> JSONObject:
    return given(
        temperature=options.temperature,
        top_p=options.top_p,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        seed=options.seed,
        stop=list(options.stop) or None,
        reasoning_effort=options.reasoning_effort,
        verbosity=options.verbosity,
        response_format=options.json and response_format(options.json),
        **options.identifiers,
    )


def response_format(wanted: JSONFormat) -> JSONObject:
    if wanted.schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": schema_of(wanted)}


def choice_of(options: Options) -> JSONObject | str | None:
    if isinstance(options.tool_choice, OneTool):
        return {"type": "function", "function": {"name": options.tool_choice.name}}
    return options.tool_choice


def file_part(file: Attached) -> JSONObject:
    if file.media_type == PDF:
        return {"type": "file", "file": {"filename": file.name, "file_data": data_url(file)}}
    return {"type": "image_url", "image_url": {"url": data_url(file)}}


def tool_call(call: Call) -> JSONObject:
    function = {"name": call.name, "arguments": to_text(call.arguments or {})}
    return {"id": call.id, "type": "function", "function": function}


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
    def __init__(self, speech: Speech) -> None:
        self.began = False
        self.is_over = False
        self._speech = speech
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
            codes, sentence = words_of_error({"error": chunk.error})
            raise told_in_stream(codes, sentence, began=self.began)
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
            if self._thoughts:  # DeepSeek and others want these back until the calls are answered
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
