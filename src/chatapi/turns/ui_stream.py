"""A turn as the AI SDK's UI message stream, version 1, over server-sent events.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol#data-stream-protocol: one line of JSON an event, and `[DONE]` after
the last. The stream is the same whether the turn runs here, runs elsewhere or has ended.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from prometheus_client import Gauge

from chatapi.agent.ports import ToolCall
from chatapi.errors.base import AppError
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import TurnCancelled
from chatapi.parts import Call, Part, Reasoning, Step, Text
from chatapi.turns.log import Outcome, ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent, TurnLog
from chatapi.turns.schemas import ChatAnswer, WaitingAnswer

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
HEARTBEAT = b": still here\n\n"
DONE = b"data: [DONE]\n\n"
HAS_BEGUN = {"type": "message-metadata", "messageMetadata": {"queued": False}}

Chunk = dict[str, Any]


async def ui_message_stream(
    log: TurnLog, streams: Gauge, heartbeat: float, *, after_wait: int = 0
) -> AsyncIterator[bytes]:
    """The whole turn from its beginning, as it happens; always ended by `finish`, `abort` or `error`, and `[DONE]`.

    With `after_wait` only what follows the answers of the turn's wait of this number: the client that has given them
    shows the rest already, and would show it twice. The stream of a turn that is queued says so in its `start`, and says
    when the turn has begun. `streams` counts the open streams. After `heartbeat` seconds of
    silence a comment is sent.
    """
    chunks = UIMessageChunks()
    skips = after_wait > 0
    was_queued = log.queued
    with streams.track_inprogress():
        yield sse(
            [
                {
                    "type": "start",
                    "messageId": f"turn_{log.turn_id}",  # a resumed message replaces what it resumes
                    "messageMetadata": {
                        "conversation_id": log.conversation_id,
                        "turn_id": log.turn_id,
                        **({"waiting": False} if log.wait else {}),
                        **({"queued": True} if was_queued else {}),
                    },
                }
            ]
        )
        async for events in log.read(heartbeat):
            if was_queued and not log.queued:
                was_queued = False
                yield sse([HAS_BEGUN])
            elif not events:
                yield HEARTBEAT
            told: list[Chunk] = []
            for event in events:
                if skips and isinstance(event, ToolEnded) and event.wait >= after_wait:
                    skips = False
                    chunks.skip_step()
                found = list(chunks.of(event))
                told += [] if skips else found
            if told:
                yield sse(told)
        if skips:
            chunks.skip_step()
        yield sse(chunks.at_end(log.ended, turn_ended=log.outcome is not None, news=news_of(log))) + DONE


def news_of(log: TurnLog) -> Iterator[Chunk]:
    """What the conversation was given while the turn ran here."""
    if log.title is not None:
        yield {"type": "data-title", "data": {"title": log.title}, "transient": True}
    if log.summarized_until is not None:
        told = {"summarized_until": log.summarized_until}
        yield {"type": "data-compaction", "data": told, "transient": True}


def sse(chunks: Iterator[Chunk] | Sequence[Chunk]) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks)


class UIMessageChunks:
    """Translates events into chunks; opens texts and steps when something comes for them, and closes them in time."""

    def __init__(self) -> None:
        self._open: str | None = None  # the type of the part that deltas go to
        self._parts = 0
        self._in_step = False
        self._step_acted = False
        self._calls: dict[str, bool] = {}  # those told so far, and whether their user has denied them
        self._asked: list[Chunk] = []  # requests for approval, which come after the step's outcomes

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
                yield from self._started(event)
            case ToolEnded(call=ended, wait=wait):
                if wait:  # the step was over when the wait began
                    yield from self._end_step()
                else:
                    self._step_acted = True
                yield outcome_of(ended, is_denied=self._calls.get(ended.id, False))

    def at_end(
        self, outcome: Outcome | None, *, turn_ended: bool, news: Iterable[Chunk] = ()
    ) -> Iterator[Chunk]:
        """The end of a stream; with `turn_ended` also the turn's, and not only this stream's."""
        yield from self._end_step()
        yield from news
        if turn_ended and (status := status_of(outcome)) is not None:
            yield {"type": "message-metadata", "messageMetadata": {"status": status}}
        match outcome:
            case ChatAnswer():
                reason = outcome.finish_reason or "stop"
                yield {"type": "finish", "finishReason": reason, "messageMetadata": metadata_of(outcome)}
            case WaitingAnswer():
                yield {"type": "finish", "finishReason": "tool-calls", "messageMetadata": {"waiting": True}}
            case TurnCancelled():
                yield {"type": "abort"}
            case AppError():
                yield {"type": "error", "errorText": outcome.detail, "problem": outcome.document}
            case None:
                pass  # unreachable: a log that was read to its end has an outcome

    def skip_step(self) -> None:
        """End the step without a word, for a client that has seen its end already."""
        for _ in self._end_step():
            pass

    def _started(self, event: ToolStarted) -> Iterator[Chunk]:
        call = {
            "toolCallId": event.id,
            "toolName": event.name,
            "dynamic": True,
            # Without this the client would take the call for one that it has to answer itself.
            **({} if event.asks == "client-tool" else {"providerExecuted": True}),
        }
        if event.id not in self._calls:
            self._calls[event.id] = False
            yield {"type": "tool-input-start", **call}
            yield {"type": "tool-input-available", **call, "input": event.arguments}
        elif event.asks == "client-tool":  # so far it was told as one that is carried out here
            yield {
                "type": "tool-input-available",
                **call,
                "input": event.arguments,
                "providerExecuted": False,
            }
        if (approval := event.approval) is None:
            return
        request = {"type": "tool-approval-request", "approvalId": approval.id, "toolCallId": event.id}
        if approval.approved is msgspec.UNSET:
            self._asked.append(request)
            return
        yield request
        reason = {} if approval.reason is msgspec.UNSET else {"reason": approval.reason}
        response = {"type": "tool-approval-response", "approvalId": approval.id}
        yield {**response, "approved": approval.approved, **reason}
        self._calls[event.id] = not approval.approved

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
        yield from self._asked
        self._asked = []
        if self._in_step:
            self._in_step = self._step_acted = False
            yield {"type": "finish-step"}


def parts_of(events: Iterable[TurnEvent]) -> list[Part]:
    """The parts of the message that a client assembles from these events' stream, with texts and calls in full."""
    parts: list[Part] = []
    calls: dict[str, int] = {}
    chunks = UIMessageChunks()
    for event in events:
        for chunk in chunks.of(event):
            match chunk:
                case {"type": "start-step"}:
                    parts.append(Step())
                case {"type": "text-start"}:
                    parts.append(Text(text=""))
                case {"type": "reasoning-start", "id": id_}:
                    parts.append(Reasoning(id=id_, text=""))
                case {"type": "text-delta" | "reasoning-delta", "delta": delta}:
                    last = parts[-1]
                    assert isinstance(last, Text | Reasoning)  # noqa: S101 - deltas come after their start
                    parts[-1] = replace(last, text=f"{last.text}{delta}")
                case _:
                    pass  # its part is there already
        note_event(parts, calls, event)
    return parts


def note_event(parts: list[Part], calls: dict[str, int], event: TurnEvent) -> None:
    """Note in the parts what no chunk says; `calls` has the places of the calls among them."""
    match event:
        case TextAdded(was_reasoning=True, begins_step=False) if parts and isinstance(parts[-1], Text):
            parts[-1] = replace(parts[-1], taken_back=True)
        case ToolStarted(id=id_, name=name, arguments=arguments, asks=asks, approval=approval):
            part = Call(id_, name, arguments, asks, approval)
            if id_ in calls:
                parts[calls[id_]] = part
            else:
                calls[id_] = len(parts)
                parts.append(part)
        case ToolEnded(call=call, wait=wait) if wait:
            place = calls[call.id]
            parts[place] = replace(parts[place], wait=wait)
        case _:
            pass


def status_of(outcome: Outcome | None) -> str | None:
    """The status of a turn that ended without an answer; None if it has one, or its end is not stored yet."""
    match outcome:
        case TurnCancelled():
            return "cancelled"
        case None | ChatAnswer() | WaitingAnswer() | DatabaseUnavailable():
            return None
        case AppError():
            return "failed"


def outcome_of(call: ToolCall, *, is_denied: bool) -> Chunk:
    if is_denied:
        return {"type": "tool-output-denied", "toolCallId": call.id}
    if isinstance(call.error, str):
        return {"type": "tool-output-error", "toolCallId": call.id, "errorText": call.error, "dynamic": True}
    return {"type": "tool-output-available", "toolCallId": call.id, "output": call.result, "dynamic": True}


def metadata_of(answer: ChatAnswer) -> Chunk:
    """`usage` is there when the model tells it."""
    metadata = {"message_id": answer.message_id}
    return metadata if answer.usage is msgspec.UNSET else {**metadata, "usage": answer.usage}
