"""A turn's events as output items of the Responses API.

The items and their ids are the same whether the turn runs here, runs elsewhere or has ended, and however its texts were cut
into events: an item is a part of the turn's message (`chatapi.parts`), in the order in which the parts began. An id
has the turn's id and the item's number in the turn, so that it can be resolved again.

https://platform.openai.com/docs/api-reference/responses/object
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from chatapi.agent.ports import ToolCall
from chatapi.db.paging import MAX_ID
from chatapi.turns.log import ReasoningAdded, TextAdded, ToolEnded, ToolStarted, TurnEvent

SERVER_LABEL = "chatapi"

JSONObject: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["message", "reasoning", "function_call", "mcp_approval_request", "mcp_call"]
ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
PREFIXES: dict[Kind, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "mcp_approval_request": "mcpr",
    "mcp_call": "mcp",
}


class Item(Struct, kw_only=True):
    """An output item. `number` counts the turn's items from 1, and `wait` says after which of its waits it came.

    `turn` is the turn's id, or what stands in its place where nothing is stored. A message or a reasoning has `text`; others have the `call`, and an `mcp_call` that was asked about its `request`.
    `has_own_call_id`: the call was added by its caller, with an id of theirs.
    """

    kind: Kind
    turn: int | str
    number: int
    wait: int
    text: str = ""
    call: ToolCall | None = None
    approval_id: str | None = None
    request: "Item | None" = None
    status: ItemStatus = "in_progress"
    has_own_call_id: bool = False

    @property
    def id(self) -> str:
        return f"{PREFIXES[self.kind]}_{self.turn}_{self.number}"

    @property
    def call_id(self) -> str:
        """The id by which the caller of a `function_call` answers it."""
        if self.has_own_call_id and self.call is not None:
            return self.call.id
        return f"call_{self.turn}_{self.number}"

    @property
    def body(self) -> JSONObject:
        """The item as callers see it."""
        head: JSONObject = {"id": self.id, "type": self.kind}
        if self.kind == "message":
            content = [] if self.status == "in_progress" else [output_text(self.text)]
            return {**head, "status": self.status, "role": "assistant", "content": content}
        if self.kind == "reasoning":
            summary = [] if self.status == "in_progress" else [summary_text(self.text)]
            return {**head, "summary": summary, "status": self.status}
        assert self.call is not None  # noqa: S101 - all other kinds have one
        named = {"name": self.call.name, "arguments": arguments_of(self.call)}
        if self.kind == "function_call":
            return {**head, "status": self.status, "call_id": self.call_id, **named}
        if self.kind == "mcp_approval_request":
            return {**head, "server_label": SERVER_LABEL, **named}
        return {
            **head,
            "status": "failed" if isinstance(self.call.error, str) else self.status,
            "server_label": SERVER_LABEL,
            **named,
            "output": output_of(self.call),
            "error": None if self.call.error is UNSET else self.call.error,
            "approval_request_id": None if self.request is None else self.request.id,
        }


class Opened(NamedTuple):
    """A message or a reasoning begins."""

    item: Item


class Said(NamedTuple):
    """The next piece of an item's text."""

    item: Item
    text: str


class Done(NamedTuple):
    """The item is whole; one that is no text comes only now."""

    item: Item


Told: TypeAlias = Opened | Said | Done
CLOSE = None  # in the place of an event: the text that is open ends here


class TurnItems:
    """Makes items of a turn's events, which come in any pieces.

    A call becomes an item when its outcome is there or when it asks for an answer. What began after it waits for that, so
    that the order of the items does not depend on how long a call takes.
    """

    def __init__(self, turn: int | str) -> None:
        self.items: list[Item] = []
        self.wait = 0  # the last wait of the turn whose answers have taken effect
        self._turn = turn
        self._open: Item | None = None
        self._said: list[str] = []  # of the item that is open, which gets its text at its end
        self._coming: deque[TurnEvent | None] = deque()
        self._called: ToolStarted | None = None  # its outcome is waited for
        self._approved: deque[tuple[Item, ToolCall]] = deque()  # whose outcomes come before all else
        self._seen: set[str] = set()  # calls
        self._asking: dict[str, ToolStarted] = {}  # calls that turned out to need an answer
        self._ended: dict[str, ToolCall] = {}
        self._asked: list[tuple[Item, ToolStarted]] = []  # in the step before the next wait

    def take(self, event: TurnEvent) -> Iterator[Told]:
        match event:
            case ToolEnded(call=call, wait=wait):
                if wait > self.wait:
                    yield from self._go_on(wait)
                self._ended[call.id] = call
                if wait:  # a stream of the AI SDK begins a step here
                    self._coming.append(CLOSE)
            case ToolStarted(id=id_) if id_ in self._seen:
                if event.asks is not None:
                    self._asking[id_] = event
            case ToolStarted(id=id_):
                self._seen.add(id_)
                self._coming.append(event)
            case _:
                self._coming.append(event)
        yield from self._tell()

    def end(self, status: ItemStatus | None = "completed") -> Iterator[Told]:
        """No event comes any more: a text that is open ends with this status, and a call under way as incomplete.

        With None more may come, and nothing ends.
        """
        if status is not None:
            yield from self._tell(outcomes_come=False)
            yield from self._close(status)

    def _go_on(self, wait: int) -> Iterator[Told]:
        """The turn goes on after this wait: with the calls that were approved."""
        yield from self.end()
        self.wait = wait
        for item, started in self._asked:
            approval = started.approval
            if approval is not None and approval.approved is True:
                self._approved.append((item, call_of(started)))
        self._asked = []

    def _tell(self, *, outcomes_come: bool = True) -> Iterator[Told]:
        """Tell what can be told; without waiting for outcomes if none will come."""
        while True:
            if self._approved:
                request, call = self._approved[0]
                if (ended := self._ended.get(call.id)) is None and outcomes_come:
                    return
                self._approved.popleft()
                yield self._done("mcp_call", call=ended or call, request=request, is_whole=ended is not None)
                continue
            if (called := self._called) is not None:
                if called.id in self._ended:
                    self._called = None
                    yield self._done("mcp_call", call=self._ended[called.id])
                elif called.id in self._asking:
                    self._called = None
                    yield self._ask(self._asking[called.id])
                elif outcomes_come:
                    return
                else:
                    self._called = None
                    yield self._done("mcp_call", call=call_of(called), is_whole=False)
                continue
            if not self._coming:
                return
            yield from self._next(self._coming.popleft())

    def _next(self, event: TurnEvent | None) -> Iterator[Told]:
        match event:
            case TextAdded(was_reasoning=True, begins_step=begins_step):
                yield from self._take_back() if not begins_step else self._close()
            case TextAdded(text=text, begins_step=begins_step):
                yield from self._say("message", text, begins_step=begins_step)
            case ReasoningAdded(text=text, begins_step=begins_step):
                yield from self._say("reasoning", text, begins_step=begins_step)
            case ToolStarted():
                yield from self._close()
                if event.asks is None:
                    self._called = event
                else:
                    yield self._ask(event)
            case _:
                yield from self._close()

    def _say(self, kind: Kind, text: str, *, begins_step: bool) -> Iterator[Told]:
        if begins_step or (self._open is not None and self._open.kind != kind):
            yield from self._close()
        if self._open is None:
            self._open = self._new(kind)
            yield Opened(self._open)
        self._said.append(text)
        yield Said(self._open, text)

    def _take_back(self) -> Iterator[Told]:
        """The text that is open was reasoning: it ends as an empty message, and is told again as what it was."""
        if self._open is None or self._open.kind != "message":
            return
        text, self._said = "".join(self._said), []
        yield from self._close()
        yield from self._say("reasoning", text, begins_step=False)
        yield from self._close()

    def _close(self, status: ItemStatus = "completed") -> Iterator[Told]:
        if (item := self._open) is not None:
            self._open = None
            item.text, self._said = "".join(self._said), []
            item.status = status
            yield Done(item)

    def _ask(self, started: ToolStarted) -> Done:
        kind: Kind = "function_call" if started.asks == "client-tool" else "mcp_approval_request"
        done = self._done(kind, call=call_of(started))
        done.item.approval_id = None if started.approval is None else started.approval.id
        self._asked.append((done.item, started))
        return done

    def _done(
        self, kind: Kind, *, call: ToolCall, request: Item | None = None, is_whole: bool = True
    ) -> Done:
        item = self._new(kind)
        item.call, item.request = call, request
        item.status = "completed" if is_whole else "incomplete"
        return Done(item)

    def _new(self, kind: Kind) -> Item:
        item = Item(kind=kind, turn=self._turn, number=len(self.items) + 1, wait=self.wait)
        self.items.append(item)
        return item


def items_of(
    turn: int | str, events: Sequence[TurnEvent], status: ItemStatus | None = "completed"
) -> list[Item]:
    """The items of a turn that these events tell; a text at their end has this status, and goes on with None."""
    made = TurnItems(turn)
    for event in events:
        for _ in made.take(event):
            pass
    for _ in made.end(status):
        pass
    return made.items


def turn_of_item(item_id: str) -> tuple[int, int] | None:
    """The turn's id and the number in an item's id, or in a `call_id`; None if no item has such an id."""
    found = ITEM_ID.fullmatch(item_id)
    if found is None:
        return None
    turn_id, number = int(found[1]), int(found[2])
    return (turn_id, number) if 0 < turn_id <= MAX_ID else None


ITEM_ID = re.compile(r"(?:msg|rs|fc|mcpr|mcp|call)_([1-9][0-9]{0,18})_([0-9]{1,6})")


def call_of(started: ToolStarted) -> ToolCall:
    return ToolCall(id=started.id, name=started.name, arguments=started.arguments)


def arguments_of(call: ToolCall) -> str:
    return msgspec.json.encode(call.arguments).decode()


def output_of(call: ToolCall) -> str | None:
    """The result as text: a text as it is, all else as JSON."""
    if call.result is UNSET:
        return None
    return call.result if isinstance(call.result, str) else msgspec.json.encode(call.result).decode()


def output_text(text: str) -> JSONObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def summary_text(text: str) -> JSONObject:
    return {"type": "summary_text", "text": text}
