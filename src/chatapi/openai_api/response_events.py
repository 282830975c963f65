"""The events of a response's stream, as server-sent events with a number each.

https://platform.openai.com/docs/api-reference/responses-streaming: only types that are there, in the order in which the
API sends them. The numbers depend on what was said alone: a text is told by words, whatever pieces it came in, so a
reader can go on after a number in any process, also when the turn has ended.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import msgspec
from prometheus_client import Gauge

from chatapi.errors.base import AppError, Defect
from chatapi.openai_api.errors import error_of
from chatapi.openai_api.items import (
    Done,
    Item,
    JSONObject,
    Opened,
    Said,
    Told,
    TurnItems,
    arguments_of,
    output_text,
    summary_text,
)
from chatapi.openai_api.response_objects import End, Facts, body_of, end_of
from chatapi.turns.log import TurnEvent, TurnLog
from chatapi.turns.ui_stream import HEARTBEAT

# A word with the space after it. The first 16 characters of a longer one are a piece, too.
WORD = re.compile(r"\S{1,15}\s|\S{1,16}|\s{1,16}")


class Words:
    """Cuts a text that comes in any pieces into the same words. The last word may go on, so it is held back."""

    def __init__(self) -> None:
        self._rest = ""

    def take(self, text: str) -> list[str]:
        *words, self._rest = WORD.findall(self._rest + text) or [""]
        return words

    def end(self) -> list[str]:
        rest, self._rest = self._rest, ""
        return [rest] if rest else []


class ResponseEvents:
    """Numbers the events of one response from 0, and leaves out those up to `after`."""

    def __init__(self, *, after: int = -1) -> None:
        self.number = -1  # of the last event
        self._after = after
        self._items = -1  # the place of the last item in the output
        self._words = Words()
        self._delta = b""  # what is the same in all deltas of the item

    def event(self, type_: str, **members: object) -> bytes:
        """One event; empty if the reader has it already."""
        self.number += 1
        if self.number <= self._after:
            return b""
        body = msgspec.json.encode({"type": type_, **members, "sequence_number": self.number})
        return b"event: %b\ndata: %b\n\n" % (type_.encode(), body)

    def error(self, error: AppError | None) -> bytes:
        """As an SDK's helpers read it and as its plain streams do: flat and nested at once. It has the last event's number."""
        told = msgspec.to_builtins(error_of(error or Defect("The service failed.")))
        body = {
            "type": "error",
            **{name: told[name] for name in ("code", "message", "param")},
            "error": told,
            "sequence_number": self.number,
        }
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(body)

    def of(self, told: Told) -> bytes:
        match told:
            case Opened(item):
                self._items += 1
                return b"".join(self._opened(item))
            case Said(_, text):
                return b"".join(self._deltas(self._words.take(text)))
            case Done(item):
                rest = b"".join(self._deltas(self._words.end()))
                return rest + b"".join(self._done(item))

    def _opened(self, item: Item) -> Iterator[bytes]:
        place = self._place(item)
        yield self._added(item.body)
        if item.kind == "message":
            part, type_ = output_text(""), "response.output_text.delta"
            where = {**place, "content_index": 0}
            yield self.event("response.content_part.added", **where, part=part)
            where["logprobs"] = []
        else:
            type_ = "response.reasoning_summary_text.delta"
            where = {**place, "summary_index": 0}
            yield self.event("response.reasoning_summary_part.added", **where, part=summary_text(""))
        # Most events of a stream are deltas, so what is the same in them is encoded once.
        head = msgspec.json.encode({"type": type_, **where})[:-1]
        self._delta = b"event: %b\ndata: %b" % (type_.encode(), head)

    def _deltas(self, words: list[str]) -> Iterator[bytes]:
        for word in words:
            self.number += 1
            if self.number > self._after:
                yield b'%b,"delta":%b,"sequence_number":%d}\n\n' % (
                    self._delta,
                    msgspec.json.encode(word),
                    self.number,
                )

    def _done(self, item: Item) -> Iterator[bytes]:
        if item.kind == "message":
            where = {**self._place(item), "content_index": 0}
            yield self.event("response.output_text.done", **where, text=item.text, logprobs=[])
            yield self.event("response.content_part.done", **where, part=output_text(item.text))
        elif item.kind == "reasoning":
            where = {**self._place(item), "summary_index": 0}
            yield self.event("response.reasoning_summary_text.done", **where, text=item.text)
            yield self.event("response.reasoning_summary_part.done", **where, part=summary_text(item.text))
        else:
            self._items += 1
            yield from self._called(item, item.body)
        yield self.event("response.output_item.done", output_index=self._items, item=item.body)

    def _called(self, item: Item, body: JSONObject) -> Iterator[bytes]:
        place = self._place(item)
        if item.kind == "mcp_approval_request" or item.call is None:
            yield self._added(body)
            return
        arguments = arguments_of(item.call)
        begun = {**body, "status": "in_progress", "arguments": ""}
        if item.kind == "function_call":
            yield self._added(begun)
            yield self.event("response.function_call_arguments.delta", **place, delta=arguments)
            yield self.event(
                "response.function_call_arguments.done", **place, name=item.call.name, arguments=arguments
            )
            return
        yield self._added({**begun, "output": None, "error": None})
        yield self.event("response.mcp_call.in_progress", **place)
        yield self.event("response.mcp_call_arguments.delta", **place, delta=arguments)
        yield self.event("response.mcp_call_arguments.done", **place, arguments=arguments)
        outcome = "completed" if body["status"] == "completed" else "failed"
        yield self.event(f"response.mcp_call.{outcome}", **place)

    def _added(self, body: JSONObject) -> bytes:
        return self.event("response.output_item.added", output_index=self._items, item=body)

    def _place(self, item: Item) -> JSONObject:
        return {"item_id": item.id, "output_index": self._items}


class ResponseStream:
    """One response's stream: what was said of it so far and what comes, to its end."""

    def __init__(self, log: TurnLog, facts: Facts, *, after: int = -1) -> None:
        self._log = log
        self._facts = facts
        self._items = TurnItems(facts.key)
        self._events = ResponseEvents(after=after)

    async def read(self, streams: Gauge, heartbeat: float) -> AsyncIterator[bytes]:
        """Each chunk is whole events; after `heartbeat` seconds of silence it is a comment. `streams` counts the open ones.

        It ends with `response.completed` or `.incomplete`; or, where there is no answer, with `response.failed` and `error`. A
        reader that is sent away although the response goes on gets `error` alone, with the number of the event before it.
        """
        facts = self._facts
        with streams.track_inprogress():
            begun = body_of(
                facts, (), End(status="queued" if facts.shown.get("background") else "in_progress")
            )
            yield self._events.event("response.created", response=begun) + self._events.event(
                "response.in_progress", response={**begun, "status": "in_progress"}
            )
            read = 0
            async with aclosing(self._log.read(heartbeat)) as batches:
                async for batch in batches:
                    said = b"".join(self._told(event) for event in batch)
                    read += len(batch)
                    if said or not batch:
                        yield said or HEARTBEAT
                    # The turn has gone on from where this response ended.
                    if self._items.wait > facts.wait or (
                        self._log.wait > facts.wait and read == len(self._log.events)
                    ):
                        break
            yield self._end()

    def _told(self, event: TurnEvent) -> bytes:
        return b"".join(self._events.of(told) for told in self._items.take(event) if self._is_ours(told))

    def _is_ours(self, told: Told) -> bool:
        return told.item.wait == self._facts.wait

    def _end(self) -> bytes:
        end = end_of(self._log, self._facts)
        if end is None:
            return b""  # unreachable: a log that was read to its end has one
        if end.is_left:
            return self._events.error(end.error)
        rest = b"".join(
            self._events.of(told) for told in self._items.end(end.text_status) if self._is_ours(told)
        )
        items = [item for item in self._items.items if item.wait == self._facts.wait]
        whole = body_of(self._facts, items, end)
        if end.error is None:
            return rest + self._events.event(f"response.{end.status}", response=whole)
        failed = self._events.event("response.failed", response=whole)
        self._events.number += 1
        return rest + failed + self._events.error(end.error)
