"""Earlier turns as pydantic-ai's messages: the very ones, as long as those who wrote them are asked again."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pydantic
from msgspec import UNSET
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model

from chatapi.agent.ports import HistoryMessage, ToolCall

log = logging.getLogger(__name__)

# Of a message, what is not for its provider to see again, and would be stored with each turn.
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

# For a turn that was cancelled before its first word: APIs refuse empty answers, and two questions in a row.
INTERRUPTED = "(I was interrupted.)"


def provider_of(model: Model) -> str:
    """Who takes back what `model` says: ids and signatures mean nothing to the same API at another address."""
    return f"{model.system} {model.base_url}"


def dumped(messages: Sequence[ModelMessage], provider: str) -> dict[str, Any]:
    """What a turn added to the conversation after its user's message, as JSON."""
    found = ModelMessagesTypeAdapter.dump_python(without_silence(messages), mode="json")
    return {"provider": provider, "messages": [_kept(message) for message in found]}


def _kept(message: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if value is not None and name not in UNSENT}
    kept["parts"] = [
        {name: value for name, value in part.items() if value is not None or name == "content"}
        for part in message["parts"]
    ]
    return kept


def messages_of(history: Sequence[HistoryMessage], providers: Collection[str]) -> list[ModelMessage]:
    """The history for any of `providers`."""
    return [message for each in history for message in _messages(each, providers)]


def _messages(message: HistoryMessage, providers: Collection[str]) -> Sequence[ModelMessage]:
    if message.role == "user":
        return [ModelRequest(parts=[UserPromptPart(message.content)])]
    state = message.provider_state
    if isinstance(state, dict) and state.get("provider") in providers:
        try:
            return ModelMessagesTypeAdapter.validate_python(state["messages"])
        except (KeyError, pydantic.ValidationError):
            log.warning(
                "What a provider had said is not understood any more; its plain text is used", exc_info=True
            )
    return _plain(message)


def _plain(message: HistoryMessage) -> list[ModelMessage]:
    """The message without anything of a provider's: calls and results in pairs, then what was said."""
    plain: list[ModelMessage] = []
    if message.tool_calls:
        calls = [ToolCallPart(call.name, call.arguments, tool_call_id=call.id) for call in message.tool_calls]
        plain = [
            ModelResponse(parts=calls),
            ModelRequest(parts=[_result(call) for call in message.tool_calls]),
        ]
    plain.append(ModelResponse(parts=[TextPart(message.content if message.content.strip() else INTERRUPTED)]))
    return plain


def _result(call: ToolCall) -> ToolReturnPart:
    if call.error is UNSET:
        return ToolReturnPart(call.name, call.result, tool_call_id=call.id)
    return ToolReturnPart(call.name, call.error, tool_call_id=call.id, outcome="failed")


def without_silence(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """The messages without answers that said nothing, and without the word that was put in to get another.

    pydantic-ai asks once more, which is good, but by a second message of the user's in a row, which APIs refuse.
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


def for_model(messages: Sequence[ModelMessage], model: Model) -> list[ModelMessage]:
    """The messages without what another provider's model thought, which would reach `model` as things said."""
    return [
        replace(message, parts=[part for part in message.parts if not isinstance(part, ThinkingPart)])
        if isinstance(message, ModelResponse) and message.provider_name not in {model.system, None}
        else message
        for message in without_silence(messages)
    ]
