"""OpenAI's Responses API: https://platform.openai.com/docs/api-reference/responses

OpenAI stores nothing (`store: false`): items go back whole, without ids, and with encrypted reasoning.
"""

import re
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
    changed,
    data_url,
    decoded,
    error_told,
    error_words,
    given,
    outcome_text,
    retry_after,
    schema_of,
    to_text,
)
from chatapi.agent.wire.speech import Said, Speech, mended
from chatapi.agent.wire.trouble import Trouble, refusal

REASONING_MODEL = re.compile(r"^(ft:)?(o\d|gpt-[5-9](?!.*-chat)|codex)")
SEALED = "reasoning.encrypted_content"
# OpenAI's refusals: by a model that does not reason, and of reasoning that was sealed for another organisation.
NO_REASONING = re.compile(r"Encrypted content is not supported|Reasoning input items can only be provided")
FOREIGN_SEAL = "invalid_encrypted_content"
THOUGHTS = {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}
WORDS = {"response.output_text.delta", "response.refusal.delta"}
ENDS = {"response.completed", "response.incomplete", "response.failed"}


class InputDetails(Struct):
    cached_tokens: int | None = None


class Tokens(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None


class Incomplete(Struct):
    reason: str | None = None


class Response(Struct):
    status: str | None = None
    output: list[JSONObject] | None = None
    usage: Tokens | None = None
    error: Any = None
    incomplete_details: Incomplete | None = None


class Event(Struct):
    """One event of a stream. An `error` event has its members at the top or inside `error`."""

    type: str
    delta: Any = None
    output_index: int | None = None
    item: JSONObject | None = None
    response: Response | None = None
    error: Any = None
    code: Any = None
    message: str | None = None


decode_event = msgspec.json.Decoder(Event).decode
decode_response = msgspec.json.Decoder(Response).decode


class Responses:
    """Implements `formats.Format`. `is_openai`: OpenAI's own API rather than a compatible one."""

    options: frozenset[OptionName] = frozenset(get_args(OptionName)) - {
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "stop",
    }

    def __init__(self, model: str, key: str | None, *, is_openai: bool) -> None:
        self.headers: Mapping[str, str] = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._seals = REASONING_MODEL.match(model) is not None
        self._is_openai = is_openai

    def request(self, question: Question) -> Request:
        body: JSONObject = {
            "model": question.model,
            "instructions": question.instructions,
            "input": list(question.messages if self._seals else without_thoughts(question.messages)),
            "store": False,
        }
        if self._seals:
            body["include"] = [SEALED]
        if question.stream:
            body["stream"] = True
        if question.max_tokens is not None:
            body["max_output_tokens"] = question.max_tokens
        # Other servers may refuse what they do not know.
        if self._is_openai and question.cache_key is not None:
            body["prompt_cache_key"] = question.cache_key
        options = question.options
        body |= given(
            temperature=options.temperature,
            top_p=options.top_p,
            reasoning=given(effort=options.reasoning_effort) or None,
            text=given(verbosity=options.verbosity, format=options.json and text_format(options.json))
            or None,
            **options.identifiers,
        )
        if question.tools:
            body |= given(tool_choice=choice_of(options), parallel_tool_calls=options.parallel_tool_calls)
            body["tools"] = [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": False,
                }
                for tool in question.tools
            ]
        return Request(path="/responses", headers=self.headers, body=body)

    def reader(self, speech: Speech) -> "ResponseReader":
        return ResponseReader(speech)

    def user(self, text: str, files: Sequence[Attached] = ()) -> JSONObject:
        if not files:
            return {"role": "user", "content": text}
        words = [{"type": "input_text", "text": text}] if text else []
        return {"role": "user", "content": [*map(input_part, files), *words]}

    def said(self, text: str) -> JSONObject:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return {"type": "message", "role": "assistant", "status": "completed", "content": content}

    def called(self, calls: Sequence[Call], text: str = "") -> Sequence[JSONObject]:
        said = [self.said(text)] if text else []
        return said + [
            {
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": to_text(call.arguments or {}),
            }
            for call in calls
        ]

    def results(self, results: Sequence[tuple[Call, ToolCall]]) -> Sequence[JSONObject]:
        return [
            {"type": "function_call_output", "call_id": call.id, "output": outcome_text(made)}
            for call, made in results
        ]

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
        codes, sentence, _ = error_words(body)
        return refusal(status, codes, sentence, retry_after(headers))

    def adapt(self, request: Request, trouble: Trouble) -> Request | None:
        """Leave the reasoning out that the model cannot read; one that does not reason is not asked for it again."""
        body = {**request.body, "input": without_thoughts(request.body["input"])}
        if NO_REASONING.search(trouble.sentence):
            self._seals = False
            body.pop("include", None)
        elif FOREIGN_SEAL not in trouble.codes:
            return None
        return changed(request, body)


def without_thoughts(items: Sequence[JSONObject]) -> Sequence[JSONObject]:
    return [each for each in items if each.get("type") != "reasoning"]


def text_format(wanted: JSONFormat) -> JSONObject:
    if wanted.schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", **schema_of(wanted)}


def choice_of(options: Options) -> JSONObject | str | None:
    if isinstance(options.tool_choice, OneTool):
        return {"type": "function", "name": options.tool_choice.name}
    return options.tool_choice


def input_part(file: Attached) -> JSONObject:
    if file.media_type == PDF:
        return {"type": "input_file", "filename": file.name, "file_data": data_url(file)}
    return {"type": "input_image", "image_url": data_url(file), "detail": "auto"}


class ResponseReader:
    def __init__(self, speech: Speech) -> None:
        self.began = False
        self.is_whole = False
        self._speech = speech
        self._items: dict[int, JSONObject] = {}
        self._response: Response | None = None

    @property
    def is_over(self) -> bool:
        return self.is_whole

    def event(self, data: bytes) -> Iterator[Said]:
        event = decoded(decode_event, Event, data)
        if event.type in WORDS:
            self.began = True
            yield from self._speech.say(text_of(event.delta))
        elif event.type in THOUGHTS:
            self.began = True
            yield from self._speech.think(text_of(event.delta))
        elif event.type == "response.output_item.added":
            self.began = self.began or (event.item or {}).get("type") == "function_call"
        elif event.type == "response.output_item.done" and event.item is not None:
            index = len(self._items) if event.output_index is None else event.output_index
            self._items[index] = event.item
        elif event.type in ENDS and event.response is not None:
            self.is_whole = True
            self._take(event.response)
        elif event.type == "error":
            described = event.error or {"code": event.code, "message": event.message}
            raise error_told(described, began=self.began)

    def whole(self, body: bytes) -> Iterator[Said]:
        response = decoded(decode_response, Response, body)
        self.is_whole = True
        self._items = dict(enumerate(response.output or []))
        self._take(response)
        for item in self._items.values():
            for part in item.get("summary") or []:
                yield from self._speech.think(text_of(part.get("text")))
            for part in item.get("content") or []:
                if part.get("type") in {"output_text", "refusal"}:
                    yield from self._speech.say(text_of(part.get("text") or part.get("refusal")))

    def _take(self, response: Response) -> None:
        self._response = response
        if response.status == "failed" or response.error is not None:
            raise error_told(response.error, began=self.began)

    @property
    def usage(self) -> ModelUsage | None:
        tokens = None if self._response is None else self._response.usage
        if tokens is None:
            return None
        details = tokens.input_tokens_details
        return ModelUsage(
            input_tokens=tokens.input_tokens or 0,
            output_tokens=tokens.output_tokens or 0,
            cached_input_tokens=(details and details.cached_tokens) or 0,
        )

    def answer(self, ids: CallIds) -> Answer:
        if self._response is None:
            raise Trouble("broken", "no response.completed")
        reason = reason_of(self._response)
        if reason == "content-filter":
            raise Trouble("filtered")
        calls: list[Call] = []
        messages: list[JSONObject] = []
        for _, item in sorted(self._items.items()):
            kept = {name: value for name, value in item.items() if name != "id"}
            if item.get("type") == "function_call":
                call = call_of(item, ids, len(calls))
                calls.append(call)
                kept |= {"call_id": call.id, "arguments": to_text(call.arguments or {})}
            if item.get("type") != "reasoning" or item.get("encrypted_content"):
                messages.append(kept)
        return Answer(
            text=self._speech.text,
            calls=calls,
            reason="tool-calls" if calls and reason == "stop" else reason,
            messages=messages,
        )


def text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise Trouble("broken", "a delta is no text")
    return value


def call_of(item: JSONObject, ids: CallIds, place: int) -> Call:
    name, arguments = item.get("name"), item.get("arguments") or ""
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise Trouble("broken", "a function_call without a name")
    id_ = ids.of(str(item.get("call_id") or ""), f"{place} {name} {arguments}")
    return Call(id=id_, name=name, arguments=arguments_of(mended(arguments)))


def reason_of(response: Response) -> FinishReason:
    if response.status != "incomplete":
        return "stop"
    match response.incomplete_details and response.incomplete_details.reason:
        case "max_output_tokens":
            return "length"
        case "content_filter":
            return "content-filter"
    return "other"
