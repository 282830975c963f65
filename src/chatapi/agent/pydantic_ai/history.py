"""Earlier turns as pydantic-ai's messages: the original ones if the provider that wrote them is asked again."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
from msgspec import UNSET
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import Model

from chatapi.agent.inputs import Shown, content_of
from chatapi.agent.ports import File, HistoryMessage, ToolCall
from chatapi.agent.wire.formats import INTERRUPTED, CallIds, clean

log = logging.getLogger(__name__)

# The members of a message that are not stored with the turn: its provider need not see them again.
UNSENT = {
    "conversation_id",
    "failed_attempts",
    "history_digest",
    "instructions",
    "metadata",
    "run_id",
    "timestamp",
    "usage",
}


def provider_of(model: Model) -> str:
    """The API and address of `model`, which alone take its messages back: ids and signatures mean nothing elsewhere."""
    return f"{model.system} {model.base_url}"


def dumped(messages: Sequence[ModelMessage], provider: str) -> dict[str, Any]:
    """The messages that a turn added after its user's, as JSON."""
    found = ModelMessagesTypeAdapter.dump_python(without_silence(messages), mode="json")
    return {"provider": provider, "messages": clean([_kept(message) for message in found])}


def loaded(messages: Sequence[dict[str, Any]]) -> list[ModelMessage]:
    """What `dumped` made messages of, with the results of tools as they were.

    pydantic-ai would take a result in the shape of its own files, such as `{"kind": "binary", …}`, for one.
    """
    made = ModelMessagesTypeAdapter.validate_python(messages)
    for message, stored in zip(made, messages, strict=True):
        for part, stored_part in zip(message.parts, stored["parts"], strict=True):
            if isinstance(part, ToolReturnPart):
                part.content = stored_part["content"]
    return made


def portable(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """The messages without anything of the provider that wrote them, for another one."""
    return [_portable(each) if isinstance(each, ModelResponse) else each for each in messages]


def _portable(response: ModelResponse) -> ModelResponse:
    parts: list[TextPart | ToolCallPart] = []
    for part in response.parts:
        match part:
            case TextPart(content=content):
                parts.append(TextPart(content))
            case ToolCallPart(tool_name=name, tool_call_id=id_):
                parts.append(ToolCallPart(name, part.args_as_dict(), tool_call_id=id_))
    return ModelResponse(parts=parts)


def _kept(message: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if value is not None and name not in UNSENT}
    kept["parts"] = [
        {name: value for name, value in part.items() if value is not None or name == "content"}
        for part in message["parts"]
    ]
    return kept


def messages_of(
    history: Sequence[HistoryMessage], provider: str | None, shown: Mapping[int, Shown]
) -> list[ModelMessage]:
    """The history for `provider`, None for an unknown one, with its files as they are shown."""
    ids = CallIds()
    return [message for each in history for message in _messages(each, provider, ids, shown)]


def prompt_of(text: str, files: Sequence[File], shown: Mapping[int, Shown]) -> str | list[UserContent]:
    """A user's message with its files."""
    words, attached = content_of(text, files, shown)
    if not attached:
        return words
    return [
        *(BinaryContent(each.data, media_type=each.media_type) for each in attached),
        *([words] if words else []),
    ]


def _messages(
    message: HistoryMessage, provider: str | None, ids: CallIds, shown: Mapping[int, Shown]
) -> Sequence[ModelMessage]:
    if message.role == "user":
        return [ModelRequest(parts=[UserPromptPart(prompt_of(message.content, message.files, shown))])]
    state = message.provider_state
    if isinstance(state, dict) and provider is not None and state.get("provider") == provider:
        try:
            return loaded(state["messages"])
        except (KeyError, pydantic.ValidationError):
            log.warning(
                "What a provider had said is not understood any more; its plain text is used", exc_info=True
            )
    return _plain(message, ids)


def _plain(message: HistoryMessage, ids: CallIds) -> list[ModelMessage]:
    """The message without anything of a provider's: each call with its result, then the text."""
    plain: list[ModelMessage] = []
    for call in message.tool_calls:
        id_ = ids.make(call.id)
        plain += [
            ModelResponse(parts=[ToolCallPart(call.name, call.arguments, tool_call_id=id_)]),
            ModelRequest(parts=[_result(call, id_)]),
        ]
    plain.append(ModelResponse(parts=[TextPart(message.content if message.content.strip() else INTERRUPTED)]))
    return plain


def called(begun: HistoryMessage) -> list[ModelMessage]:
    """An answer that the caller keeps, up to the outcomes of its calls."""
    *messages, _ = _plain(begun, CallIds())
    if begun.content.strip() and isinstance(first := messages[0], ModelResponse):
        messages[0] = ModelResponse(parts=[TextPart(begun.content), *first.parts])
    return messages


def _result(call: ToolCall, id_: str) -> ToolReturnPart:
    if call.error is UNSET:
        return ToolReturnPart(call.name, call.result, tool_call_id=id_)
    return ToolReturnPart(call.name, call.error, tool_call_id=id_, outcome="failed")


def without_silence(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """The messages without empty answers, and without pydantic-ai's requests to answer again.

    pydantic-ai rightly asks once more, but with a second user message in a row, which APIs refuse.
    """
    kept: list[ModelMessage] = []
    silent = False
    for message in messages:
        if isinstance(message, ModelResponse):
            silent = not message.tool_calls and not (message.text or "").strip()
        else:
            silent = silent and all(isinstance(part, RetryFeedbackPart) for part in message.parts)
        if not silent:
            kept.append(message)
    return kept
