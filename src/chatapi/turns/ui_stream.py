"""A turn as the AI SDK's UI message stream, version 1, over server-sent events.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol#data-stream-protocol: one line of JSON an event, and `[DONE]` after
the last. The stream is the same whether the turn runs here, runs elsewhere or has ended.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from prometheus_client import Gauge

from chatapi.agent.ports import ToolCall
from chatapi.errors.base import AppError
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import TurnCancelled
from chatapi.parts import UIPart
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent, TurnLog
from chatapi.turns.schemas import ChatAnswer

HEADERS = {
    "x-vercel-ai-ui-message-stream": "v1",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # or nginx would hold chunks back
}
HEARTBEAT = b": still here\n\n"
DONE = b"data: [DONE]\n\n"

Chunk = dict[str, Any]


async def ui_message_stream(log: TurnLog, streams: Gauge, heartbeat: float) -> AsyncIterator[bytes]:
    """The whole turn from its beginning, as it happens; always ended by `finish`, `abort` or `error`, and `[DONE]`.

    `streams` counts the open streams. After `heartbeat` seconds of silence a comment is sent.
    """
    chunks = UIMessageChunks()
    with streams.track_inprogress():
        yield sse(
            [
                {
                    "type": "start",
                    "messageId": f"turn_{log.turn_id}",  # a resumed message replaces what it resumes
                    "messageMetadata": {"conversation_id": log.conversation_id, "turn_id": log.turn_id},
                }
            ]
        )
        async for events in log.read(heartbeat):
            yield sse(chunk for event in events for chunk in chunks.of(event)) if events else HEARTBEAT
        yield sse(chunks.at_end(log.ended, turn_ended=log.outcome is not None)) + DONE


def sse(chunks: Iterator[Chunk] | Sequence[Chunk]) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks)


class UIMessageChunks:
    """Translates events into chunks; opens texts and steps when something comes for them, and closes them in time."""

    def __init__(self) -> None:
        self._open: str | None = None  # the type of the part that deltas go to
        self._parts = 0
        self._in_step = False
        self._step_acted = False

    def of(self, event: TurnEvent) -> Iterator[Chunk]:
        if not isinstance(event, ToolEnded) and event.begins_step:
            yield from self._end_step()
        match event:
            case TextAdded(was_reasoning=True):
                yield from self._close()
            case TextAdded(text=text):
                yield from self._delta("text", text)
            case ReasoningAdded(text=text):
                yield from self._delta("reasoning", text)
            case ToolStarted():
                yield from self._close()
                yield from self._begin_step()
                # Without `providerExecuted` the client would take the call for one that it has to answer itself.
                call = {
                    "toolCallId": event.id,
                    "toolName": event.name,
                    "dynamic": True,
                    "providerExecuted": True,
                }
                yield {"type": "tool-input-start", **call}
                yield {"type": "tool-input-available", **call, "input": event.arguments}
            case ToolEnded(call=ended):
                self._step_acted = True
                yield outcome_of(ended)

    def at_end(self, outcome: ChatAnswer | AppError | None, *, turn_ended: bool) -> Iterator[Chunk]:
        """The end of a stream; with `turn_ended` also the turn's, and not only this stream's."""
        yield from self._end_step()
        if turn_ended and (status := status_of(outcome)) is not None:
            yield {"type": "message-metadata", "messageMetadata": {"status": status}}
        match outcome:
            case ChatAnswer():
                reason = outcome.finish_reason or "stop"
                yield {"type": "finish", "finishReason": reason, "messageMetadata": metadata_of(outcome)}
            case TurnCancelled():
                yield {"type": "abort"}
            case AppError():
                yield {"type": "error", "errorText": outcome.detail, "problem": outcome.document}
            case None:
                pass  # unreachable: a log that was read to its end has an outcome

    def _delta(self, kind: str, text: str) -> Iterator[Chunk]:
        if self._open != kind:
            yield from self._close()
            # Text after calls is a new answer of the model, though not every agent says so.
            if self._step_acted:
                yield from self._end_step()
            yield from self._begin_step()
            self._open = kind
            self._parts += 1
            yield {"type": f"{kind}-start", "id": str(self._parts)}
        yield {"type": f"{kind}-delta", "id": str(self._parts), "delta": text}

    def _close(self) -> Iterator[Chunk]:
        if self._open is not None:
            yield {"type": f"{self._open}-end", "id": str(self._parts)}
            self._open = None

    def _begin_step(self) -> Iterator[Chunk]:
        """A step is one answer of the model with the calls that it asks for."""
        if not self._in_step:
            self._in_step = True
            yield {"type": "start-step"}

    def _end_step(self) -> Iterator[Chunk]:
        yield from self._close()
        if self._in_step:
            self._in_step = self._step_acted = False
            yield {"type": "finish-step"}


def ui_parts(events: Iterable[TurnEvent]) -> list[UIPart]:
    """The parts of the message that a client assembles from these events' stream."""
    parts: list[UIPart] = []
    calls: dict[str, UIPart] = {}
    chunks = UIMessageChunks()
    for event in events:
        for chunk in chunks.of(event):
            match chunk:
                case {"type": "start-step"}:
                    parts.append({"type": "step-start"})
                case {"type": "text-start"}:
                    parts.append({"type": "text", "text": ""})
                case {"type": "reasoning-start", "id": id_}:
                    parts.append({"type": "reasoning", "id": id_, "text": ""})
                case {"type": "text-delta" | "reasoning-delta", "delta": delta}:
                    parts[-1]["text"] += delta
                case {"type": "tool-input-available", "toolCallId": id_, "toolName": name, "input": input_}:
                    calls[id_] = {
                        "type": "dynamic-tool",
                        "toolCallId": id_,
                        "toolName": name,
                        "input": input_,
                    }
                    parts.append(calls[id_])
                case _:
                    pass  # its part is there already
    return parts


def status_of(outcome: ChatAnswer | AppError | None) -> str | None:
    """The status of a turn that ended without an answer; None if it has one, or its end is not stored yet."""
    match outcome:
        case TurnCancelled():
            return "cancelled"
        case None | ChatAnswer() | DatabaseUnavailable():
            return None
        case AppError():
            return "failed"


def outcome_of(call: ToolCall) -> Chunk:
    if isinstance(call.error, str):
        return {"type": "tool-output-error", "toolCallId": call.id, "errorText": call.error, "dynamic": True}
    return {"type": "tool-output-available", "toolCallId": call.id, "output": call.result, "dynamic": True}


def metadata_of(answer: ChatAnswer) -> Chunk:
    """`usage` is there when the model tells it."""
    metadata = {"message_id": answer.message_id}
    return metadata if answer.usage is msgspec.UNSET else {**metadata, "usage": answer.usage}
