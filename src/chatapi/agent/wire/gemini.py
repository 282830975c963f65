"""Gemini's generateContent: https://ai.google.dev/api/generate-content

Thought signatures go back with the parts that carried them: https://ai.google.dev/gemini-api/docs/thought-signatures
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Struct

from chatapi.agent.inputs import Attached
from chatapi.agent.ports import FinishReason, ModelUsage, OneTool, OptionName, Options, ToolCall
from chatapi.agent.wire.formats import (
    Answer,
    Call,
    CallIds,
    JSONObject,
    Question,
    Request,
    base64_of,
    decoded,
    error_told,
    error_words,
    given,
    outcome,
    retry_after,
)
from chatapi.agent.wire.speech import Said, Speech
from chatapi.agent.wire.trouble import Trouble, refusal

# Google's own placeholder for a call that no Gemini model signed; Gemini 3 refuses a call without a signature.
UNSIGNED = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
REASONS: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length"}
FILTERS = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"}
MALFORMED = {
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "MALFORMED_RESPONSE",
    "MISSING_THOUGHT_SIGNATURE",
    "TOO_MANY_TOOL_CALLS",
}
# The API has four levels; no thinking is a budget of none.
THINKING: dict[str, JSONObject] = {
    "none": {"thinkingBudget": 0},
    "minimal": {"thinkingLevel": "MINIMAL"},
    "low": {"thinkingLevel": "LOW"},
    "medium": {"thinkingLevel": "MEDIUM"},
    "high": {"thinkingLevel": "HIGH"},
    "xhigh": {"thinkingLevel": "HIGH"},
    "max": {"thinkingLevel": "HIGH"},
}
SECONDS = re.compile(r"^(\d+(?:\.\d+)?)s$")


class FunctionCall(Struct, rename="camel"):
    name: str = ""
    args: JSONObject | None = None
    id: str | None = None


class Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class Content(Struct, rename="camel"):
    parts: list[Part] | None = None


class Candidate(Struct, rename="camel"):
    content: Content | None = None
    finish_reason: str | None = None


class PromptFeedback(Struct, rename="camel"):
    block_reason: str | None = None


class Tokens(Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None


class Chunk(Struct, rename="camel"):
    """A chunk of a stream, or a whole answer."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Tokens | None = None
    error: Any = None


decode = msgspec.json.Decoder(Chunk).decode


class GenerateContent:
    """Implements `formats.Format`."""

    options: frozenset[OptionName] = frozenset(get_args(OptionName)) - {"verbosity", "parallel_tool_calls"}

    def __init__(self, key: str | None) -> None:
        self.headers: Mapping[str, str] = {} if key is None else {"x-goog-api-key": key}

    def request(self, question: Question) -> Request:
        body: JSONObject = {
            "systemInstruction": {"parts": [{"text": question.instructions}]},
            "contents": list(question.messages),
        }
        if config := generation_config(question.options, question.max_tokens):
            body["generationConfig"] = config
        if question.tools:
            declarations = [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "parametersJsonSchema": tool.parameters,
                }
                for tool in question.tools
            ]
            body["tools"] = [{"functionDeclarations": declarations}]
            if (calling := calling_config(question.options)) is not None:
                body["toolConfig"] = {"functionCallingConfig": calling}
        method = "streamGenerateContent?alt=sse" if question.stream else "generateContent"
        path = f"/v1beta/models/{question.model}:{method}"
        return Request(path=path, headers=self.headers, body=body)

    def reader(self, speech: Speech) -> "ContentReader":
        return ContentReader(speech)

    def user(self, text: str, files: Sequence[Attached] = ()) -> JSONObject:
        shown = [{"inlineData": {"mimeType": file.media_type, "data": base64_of(file)}} for file in files]
        return {"role": "user", "parts": [*shown, *([{"text": text}] if text or not files else [])]}

    def said(self, text: str) -> JSONObject:
        return {"role": "model", "parts": [{"text": text}]}

    def called(self, calls: Sequence[Call], text: str = "") -> Sequence[JSONObject]:
        first, *others = (
            {"functionCall": function_call(call.name, call.arguments, call.id)} for call in calls
        )
        said = [{"text": text}] if text else []
        return [{"role": "model", "parts": [*said, {**first, "thoughtSignature": UNSIGNED}, *others]}]

    def results(self, results: Sequence[tuple[Call, ToolCall]]) -> Sequence[JSONObject]:
        parts = [
            {
                "functionResponse": {
                    "name": call.name,
                    "response": {"result" if made.error is UNSET else "error": outcome(made)},
                    **({"id": call.id} if call.id else {}),
                }
            }
            for call, made in results
        ]
        return [{"role": "user", "parts": parts}]

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
        codes, sentence, value = error_words(body)
        told = retry_after(headers)
        return refusal(status, codes, sentence, delay_of(value) if told is None else told)

    def adapt(self, _: Request, __: Trouble) -> None:
        return None


def generation_config(options: Options, max_tokens: int | None) -> JSONObject:
    effort = options.reasoning_effort
    return given(
        maxOutputTokens=max_tokens,
        temperature=options.temperature,
        topP=options.top_p,
        frequencyPenalty=options.frequency_penalty or None,
        presencePenalty=options.presence_penalty or None,
        seed=options.seed,
        stopSequences=list(options.stop) or None,
        responseMimeType=options.json and "application/json",
        responseJsonSchema=options.json and options.json.schema,
        thinkingConfig=effort and THINKING[effort],
    )


def calling_config(options: Options) -> JSONObject | None:
    match options.tool_choice:
        case OneTool(name):
            return {"mode": "ANY", "allowedFunctionNames": [name]}
        case "required":
            return {"mode": "ANY"}
        case "none":
            return {"mode": "NONE"}
    return None


def function_call(name: str, arguments: JSONObject | None, id_: str | None) -> JSONObject:
    call: JSONObject = {"name": name, "args": arguments or {}}
    return {**call, "id": id_} if id_ else call


def delay_of(value: Any) -> float | None:
    """The delay in seconds from `RetryInfo` (google.rpc) among an error's details."""
    error = value.get("error") if isinstance(value, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        told = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(told, str) and (found := SECONDS.match(told)):
            return float(found[1])
    return None


class ContentReader:
    def __init__(self, speech: Speech) -> None:
        self.began = False
        self.is_over = False  # usage may follow the finish reason, so only the stream's end is the end
        self._speech = speech
        self._parts: list[JSONObject] = []
        self._calls: list[FunctionCall] = []
        self._finish: str | None = None
        self._blocked = False
        self._usage: Tokens | None = None

    @property
    def is_whole(self) -> bool:
        return self._finish is not None or self._blocked

    def event(self, data: bytes) -> Iterator[Said]:
        yield from self._take(decoded(decode, Chunk, data))

    def whole(self, body: bytes) -> Iterator[Said]:
        yield from self._take(decoded(decode, Chunk, body))
        self.is_over = True

    def _take(self, chunk: Chunk) -> Iterator[Said]:
        if chunk.error is not None:
            trouble = error_told(chunk.error, began=self.began)
            if {"UNAVAILABLE", "RESOURCE_EXHAUSTED"} & set(trouble.codes):
                raise Trouble("busy", trouble.sentence, codes=trouble.codes)
            raise trouble
        self._usage = chunk.usage_metadata or self._usage
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._blocked = True
        for candidate in (chunk.candidates or [])[:1]:
            self._finish = candidate.finish_reason or self._finish
            for part in (candidate.content and candidate.content.parts) or []:
                yield from self._part(part)

    def _part(self, part: Part) -> Iterator[Said]:
        if part.function_call is not None:
            self.began = True
            self._calls.append(part.function_call)
            call = part.function_call
            self._keep({"functionCall": function_call(call.name, call.args, call.id)}, part)
        elif part.text and part.thought:
            self.began = True
            yield from self._speech.think(part.text)
        elif part.text:
            self.began = True
            last = self._parts[-1] if self._parts else {}
            if "text" in last and not part.thought_signature and "thoughtSignature" not in last:
                last["text"] += part.text
            else:
                self._keep({"text": part.text}, part)
            yield from self._speech.say(part.text)
        elif part.thought_signature:
            self._keep({"text": ""}, part)

    def _keep(self, kept: JSONObject, part: Part) -> None:
        if part.thought_signature:
            kept["thoughtSignature"] = part.thought_signature
        self._parts.append(kept)

    def answer(self, _: CallIds) -> Answer:
        finish = self._finish or ""
        if self._blocked or finish in FILTERS:
            raise Trouble("filtered", finish)
        if finish in MALFORMED:
            raise Trouble("unusable", finish)
        if self._finish is None:
            raise Trouble("broken" if self.began else "unusable", "no finishReason")
        # Older models give no ids; names and order match calls with results.
        calls = [Call(id=call.id or "", name=call.name, arguments=call.args or {}) for call in self._calls]
        reason = REASONS.get(finish, "other")
        return Answer(
            text=self._speech.text,
            calls=calls,
            reason="tool-calls" if calls and reason in {"stop", "other"} else reason,
            messages=[{"role": "model", "parts": self._parts}],
        )

    @property
    def usage(self) -> ModelUsage | None:
        if (tokens := self._usage) is None:
            return None
        return ModelUsage(
            input_tokens=(tokens.prompt_token_count or 0) + (tokens.tool_use_prompt_token_count or 0),
            output_tokens=(tokens.candidates_token_count or 0) + (tokens.thoughts_token_count or 0),
            cached_input_tokens=tokens.cached_content_token_count or 0,
        )
