"""OpenAI's Chat Completions, and every server that is compatible with it.

https://platform.openai.com/docs/api-reference/chat
"""

import re
from collections.abc import Mapping, Sequence
from typing import get_args

from chatapi.agent.inputs import PDF, Attached
from chatapi.agent.ports import JSONFormat, OneTool, OptionName, Options, ToolCall
from chatapi.agent.wire.chat_completion_reader import ChatCompletionReader, tool_call
from chatapi.agent.wire.formats import (
    Call,
    JSONObject,
    Question,
    Request,
    changed,
    context_told,
    data_url,
    error_words,
    given,
    outcome_text,
    retry_after,
    schema_of,
)
from chatapi.agent.wire.speech import Speech
from chatapi.agent.wire.trouble import Trouble, refusal

# DeepSeek and Kimi refuse answers without the thoughts that led to them. Other servers may refuse the member.
WANTS_THOUGHTS = re.compile(
    r"reasoning_content\W.*(passed back|is missing)|missing\W+reasoning_content", re.IGNORECASE
)
NO_THOUGHTS = " "  # DeepSeek V4 takes an empty text for none


class ChatCompletions:
    """Implements `formats.Format`. `is_openai`: OpenAI's own API rather than a compatible one."""

    options: frozenset[OptionName] = frozenset(get_args(OptionName))

    def __init__(self, key: str | None, *, is_openai: bool) -> None:
        self.headers: Mapping[str, str] = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._limit = "max_completion_tokens" if is_openai else "max_tokens"
        self._is_openai = is_openai
        self._sends_thoughts = False

    def request(self, question: Question) -> Request:
        system = {"role": "system", "content": question.instructions}
        messages = with_thoughts(question.messages) if self._sends_thoughts else question.messages
        body: JSONObject = {"model": question.model, "messages": [system, *messages]}
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

    def reader(self, speech: Speech) -> ChatCompletionReader:
        return ChatCompletionReader(speech, keeps_thoughts=self._sends_thoughts)

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

    def adapt(self, request: Request, trouble: Trouble) -> Request | None:
        if not WANTS_THOUGHTS.search(trouble.sentence):
            return None
        self._sends_thoughts = True
        return changed(request, {**request.body, "messages": with_thoughts(request.body["messages"])})


def with_thoughts(messages: Sequence[JSONObject]) -> Sequence[JSONObject]:
    """The messages, each of the assistant's with thoughts: other models' and the offline assistant's have none."""
    return [
        {"reasoning_content": NO_THOUGHTS, **each} if each["role"] == "assistant" else each
        for each in messages
    ]


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
