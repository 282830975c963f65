"""A message is its parts: what its reader was streamed, in the stream's own order, as it is stored and as it is shown.

A part is stored as an outline of what the message's row has anyway: its text is a stretch of `content`, its call is one
of `tool_calls`. Only what is nowhere else, such as reasoning, is stored in the part. A message whose outline is `usual`
stores none, so old messages and most new ones need no more than their columns.

Shown are the parts of the AI SDK's UIMessage: https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from chatapi.agent.ports import Asking, ToolCall

RESULT_BYTES = 256 * 1024  # of a tool's result as JSON in a message; the journal keeps it whole
BEGINNING_BYTES = 4 * 1024  # of a longer one
UIPart: TypeAlias = dict[str, Any]


class Step(Struct, frozen=True, tag="step"):
    """An answer of the model begins, with the calls that it asks for."""


class Reasoning(Struct, frozen=True, tag="reasoning"):
    """`id` is the stream's; it counts the texts and reasonings of a turn."""

    id: str
    text: str


class Text(Struct, frozen=True, tag="text", omit_defaults=True):
    """The next `length` characters of the content; or a `text` that was shown and is no part of the answer.

    `taken_back`: it was still being told when it turned out to be reasoning.
    """

    length: int = 0
    text: str | UnsetType = UNSET
    taken_back: bool = False


class Approval(Struct, frozen=True, omit_defaults=True):
    """A question to the user whether a call may be carried out, and the answer once it is there."""

    id: str
    approved: bool | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class Call(Struct, frozen=True, tag="call", omit_defaults=True):
    """The call with this id; `name` and `arguments` are here if it has come to no result and is not in `tool_calls`.

    `asks` is there for a call that needed an answer, which came in the turn's wait of the number `wait`.
    """

    id: str
    name: str = ""
    arguments: dict[str, Any] = {}
    asks: Asking | None = None
    approval: Approval | None = None
    wait: int = 0


Part: TypeAlias = Step | Reasoning | Text | Call


def usual(content: str, calls: Sequence[ToolCall]) -> list[Part]:
    """The outline of a message that stores none: its calls are a step, and its text is another."""
    outline: list[Part] = []
    if calls:
        outline += [Step(), *(Call(call.id) for call in calls)]
    if content:
        outline += [Step(), Text(len(content))]
    return outline


def outlined(parts: Sequence[Part], content: str, calls: Sequence[ToolCall]) -> list[Part] | None:
    """The outline to store with a message that has these parts, texts and calls in full; None if it is `usual`."""
    outline = list(_outline(parts, content, {call.id for call in calls}))
    return None if outline == usual(content, calls) else outline


def _outline(parts: Sequence[Part], content: str, known: set[str]) -> Iterator[Part]:
    place = 0
    for part in parts:
        match part:
            case Text(text=str(text), taken_back=False) if content.startswith(text, place):
                place += len(text)
                yield Text(len(text))
            case Call(id=id_) if id_ in known:
                yield replace(part, name="", arguments={})
            case _:
                yield part


def shown(outline: Sequence[Part] | None, content: str, calls: Sequence[ToolCall]) -> list[UIPart]:
    """The parts of a stored message, equal as JSON to what a client has assembled from its stream."""
    made = {call.id: call for call in calls}
    place = 0
    parts: list[UIPart] = []
    for part in usual(content, calls) if outline is None else outline:
        match part:
            case Step():
                parts.append({"type": "step-start"})
            case Reasoning(id=id_, text=text):
                parts.append({"type": "reasoning", "id": id_, "text": text, "state": "done"})
            case Text(length=length, text=text):
                parts.append(_text(content[place : place + length] if text is UNSET else text))
                place += length
            case Call():
                call = made.get(part.id) or ToolCall(id=part.id, name=part.name, arguments=part.arguments)
                parts.append(_tool(call, part))
    return parts


def _text(text: Any) -> UIPart:
    return {"type": "text", "text": text, "state": "done"}


def _tool(call: ToolCall, part: Call) -> UIPart:
    approval = part.approval
    tool = {
        "type": "dynamic-tool",
        "toolName": call.name,
        "toolCallId": call.id,
        "input": call.arguments,
        **({} if part.asks == "client-tool" else {"providerExecuted": True}),
        **({} if approval is None else {"approval": msgspec.to_builtins(approval)}),
    }
    if call.waits:
        return {**tool, "state": _state_of_waiting(approval)}
    if approval is not None and approval.approved is False:
        return {**tool, "state": "output-denied"}
    if call.error is not UNSET:
        return {**tool, "state": "output-error", "errorText": call.error}
    return {**tool, "state": "output-available", "output": call.result}


def _state_of_waiting(approval: Approval | None) -> str:
    if approval is None:
        return "input-available"
    return "approval-requested" if approval.approved is UNSET else "approval-responded"


def has_waited(outline: Sequence[Part] | None) -> bool:
    """Whether a call of the message needed an answer."""
    return any(isinstance(part, Call) and part.asks is not None for part in outline or ())


def reasoning_of(outline: Sequence[Part] | None) -> str | None:
    """The message's reasoning, its pieces as paragraphs; None if it has none."""
    pieces = [part.text for part in outline or () if isinstance(part, Reasoning)]
    return "\n\n".join(pieces) if pieces else None


def bounded(call: ToolCall) -> ToolCall:
    """The call as a message has it: of a result that is too long, its beginning."""
    encoded = b"" if call.result is UNSET else msgspec.json.encode(call.result)
    if len(encoded) <= RESULT_BYTES:
        return call
    beginning = encoded[:BEGINNING_BYTES].decode("utf-8", "ignore")
    return replace(call, result={"bytes": len(encoded), "beginning": beginning})
