"""The store's values, and the columns and conditions that all its statements share."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct
from sqlalchemy import ColumnElement, Text, and_, false, func, literal, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import File, FinishReason, HistoryMessage, ProviderState, ToolCall
from chatapi.conversations.search.folding import folded_parts
from chatapi.db.models import RUNNING, Message, Turn, now
from chatapi.errors.turns import Interrupted
from chatapi.parts import Part, outlined
from chatapi.turns.log import TurnEvent, TurnLog, text_of
from chatapi.turns.replay import events_of, joined
from chatapi.turns.schemas import (
    Answer,
    AnswerAnew,
    AnswersRequest,
    ChatAnswer,
    ChatRequest,
    ClientTool,
    Pending,
    Terms,
    WaitingAnswer,
)
from chatapi.turns.store.requests import asked_of, before_of
from chatapi.turns.store.window import Window
from chatapi.turns.ui_stream import parts_of
from chatapi.usage.budgets import NO_BUDGETS, Budgets
from chatapi.usage.counting import Spent, Unheard
from chatapi.usage.schemas import TurnUsage

ABANDONED = Interrupted("The process that ran this turn ended.").stored
USER = literal_column("'user'", Text())
ASSISTANT = literal_column("'assistant'", Text())


class Claim(Struct, frozen=True, kw_only=True):
    """A process's claim to run a turn: `run_id` is new for each run, `history` is how many turns it looks back."""

    run_id: str
    worker_id: str
    model: str
    history: int
    budgets: Budgets = NO_BUDGETS


WaitEnd: TypeAlias = Literal["answered", "superseded", "expired", "cancelled"]


class Ended(Struct, frozen=True, kw_only=True):
    """A wait that has ended, and how long it was."""

    by: WaitEnd
    seconds: float


class Waited(Struct, frozen=True, kw_only=True):
    """The wait from which a run goes on: what the turn had said, done and used until then; `state` is the agent's."""

    number: int
    calls: Sequence[Pending]
    answers: Mapping[str, Answer]
    events: Sequence[TurnEvent]
    state: Any
    client_tools: Sequence[ClientTool]
    usage: TurnUsage | None

    @property
    def approved(self) -> Sequence[str]:
        """The ids of the calls that the user has allowed."""
        return [each.tool_call_id for each in self.calls if self.answers[each.id].approved is True]


class Run(Struct, frozen=True, kw_only=True):
    """One run of a turn, by one process. `journal` has the calls of the turn's earlier runs.

    `wait` is there when the turn has waited for answers, and goes on with them. `ended` are the waits that ended when the run
    began. `begun` is what a caller that keeps the conversation has of the answer; both ids are 0.
    """

    turn_id: int
    run_id: str
    user_id: str
    conversation_id: int
    message: str
    history: Sequence[HistoryMessage]
    window: Window = Window()
    files: Sequence[File] = ()
    journal: Sequence[ToolCall] = ()
    terms: Terms = Terms()
    begun: HistoryMessage | None = None
    wait: Waited | None = None
    ended: Sequence[Ended] = ()
    created_at: datetime = msgspec.field(default_factory=now)


class Key(Struct, frozen=True, kw_only=True):
    """An idempotency key with the fingerprint of the request that came with it."""

    value: str
    request_hash: str

    @classmethod
    def of(cls, value: str, request: ChatRequest | AnswerAnew | AnswersRequest) -> "Key":
        """The fingerprint covers what tells requests apart: the parsed body, and the turn that is answered anew."""
        if isinstance(request, ChatRequest) and request.fingerprint is not UNSET:
            return cls(value=value, request_hash=request.fingerprint)
        return cls(value=value, request_hash=sha256(msgspec.json.encode(request)).hexdigest())


class Said(Struct, frozen=True, kw_only=True):
    """The result of a run. `finish_reason` is None for `stop`; `state` is the provider's, for a whole answer only.

    `spent` is what is not counted yet of `usage`, but perhaps by the call that `unheard` names.
    """

    events: Sequence[TurnEvent]
    tool_calls: Sequence[ToolCall]
    usage: TurnUsage | None = None
    spent: Sequence[Spent] = ()
    unheard: Unheard | None = None
    finish_reason: FinishReason | None = None
    state: ProviderState | None = None

    @property
    def response(self) -> str:
        """The answer."""
        return text_of(self.events)


class Stored(Struct, frozen=True, kw_only=True):
    """What is stored of a turn's answer, and the events that its stream is made of again."""

    answer: ChatAnswer | WaitingAnswer
    events: Sequence[TurnEvent]

    def log(self) -> TurnLog:
        """The log of a turn that was answered before."""
        log = TurnLog(self.answer.turn_id, self.answer.conversation_id, replayed=True)
        log.add(*self.events)
        log.end(self.answer)
        return log


class Finished(NamedTuple):
    """The answer of a turn that has ended, and whether another turn is queued behind it."""

    answer: ChatAnswer
    is_followed: bool


Shown: TypeAlias = Literal["nothing", "written", "being written"]


def new_turn(
    *,
    user_id: Any,
    conversation_id: Any,
    key: Any,
    request_hash: Any,
    claim: Any,
    alternative_of: Any,
    asked: Any,
    at: Any,
) -> dict[str, Any]:
    """The columns of a turn that begins: values, or parameters of a statement."""
    return {
        "user_id": user_id,
        "conversation_id": conversation_id,
        "status": RUNNING,
        "worker_id": claim.worker_id,
        "run_id": claim.run_id,
        "cancel_requested": false(),
        "idempotency_key": key,
        "request_hash": request_hash,
        "model": claim.model,
        "alternative_of": alternative_of,
        "asked": asked,
        "created_at": at,
    }


def new_message(
    role: ColumnElement[str],
    *,
    user_id: Any,
    conversation_id: Any,
    turn_id: Any,
    content: Any,
    tool_calls: Any,
    parts: Any,
    provider_state: Any,
    at: Any,
) -> dict[str, Any]:
    """The columns of a message, likewise."""
    return {
        "user_id": user_id,
        "conversation_id": conversation_id,
        "turn_id": turn_id,
        "role": role,
        "content": content,
        "tool_calls": tool_calls,
        "parts": parts,
        "provider_state": provider_state,
        "created_at": at,
    }


def ended_turn(
    *, status: Any, usage: Any, finish_reason: Any, model: Any, error: Any, at: Any
) -> dict[str, Any]:
    """The columns of a turn that ends, likewise; if `model` is None, the turn keeps the one that it began with."""
    return {
        "status": status,
        "usage": usage,
        "finish_reason": finish_reason,
        "model": func.coalesce(model, Turn.model),
        "error": error,
        "finished_at": at,
    }


def begin_values(
    user_id: str, request: ChatRequest, key: Key | None, claim: Claim, at: Any
) -> dict[str, Any]:
    """The parameters of a store's own statements that begin a turn, with JSON as text."""
    return {
        "user_id": user_id,
        "conversation_id": request.conversation_id,
        "worker_id": claim.worker_id,
        "run_id": claim.run_id,
        "key": key and key.value,
        "request_hash": key and key.request_hash,
        "model": claim.model,
        "content": request.message,
        "asked": to_json(asked_of(request)),
        "source": request.source or None,
        "before": to_json(before_of(request)),
        "after": request.after or None,
        "now": at,
        **search_values(request.message),
    }


def search_values(text: str) -> dict[str, Any]:
    """The rows of a message in the search index, as parameters."""
    parts, words = zip(*folded_parts(text), strict=True)
    return {"search_parts": parts, "search_words": words}


def finish_values(run: Run, said: Said, at: Any) -> dict[str, Any]:
    """The parameters of a store's own statements that finish a turn, with JSON as text."""
    response = said.response
    return {
        "user_id": run.user_id,
        "conversation_id": run.conversation_id,
        "turn_id": run.turn_id,
        "run_id": run.run_id,
        "usage": to_json(said.usage),
        "finish_reason": said.finish_reason,
        "model": None if said.state is None else said.state.model,
        "content": response,
        "tool_calls": to_json(said.tool_calls),
        "parts": to_json(outline_of(said, response)),
        "provider_state": None if said.state is None else to_json(said.state.data),
        "window_after": run.window.edge,
        "now": at,
        **search_values(response),
    }


def outline_of(said: Said, response: str) -> list[Part] | None:
    """The outline of the answer's parts, if it needs one."""
    return outlined(parts_of(joined(said.events)), response, said.tool_calls)


def entry_values(run: Run, position: int, call: ToolCall, at: Any) -> dict[str, Any]:
    """The parameters of a store's own statement that journals a call, likewise."""
    return {
        "user_id": run.user_id,
        "turn_id": run.turn_id,
        "run_id": run.run_id,
        "position": position,
        "call_id": call.id,
        "name": call.name,
        "arguments": to_json(call.arguments),
        "result": None if call.result is UNSET else to_json(call.result),
        "error": None if call.error is UNSET else call.error,
        "now": at,
    }


def to_json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def is_ours(turn_id: Any, user_id: Any, run_id: Any) -> ColumnElement[bool]:
    """Whether the turn is still this run's: it may have ended, or another process may have taken it over."""
    return and_(Turn.id == turn_id, Turn.user_id == user_id, Turn.run_id == run_id, Turn.status == RUNNING)


def typed_text(value: str | None) -> ColumnElement[Any]:
    return literal(value, Text())


def to_answer(run: Run, message_id: int, said: Said) -> ChatAnswer:
    """The answer that was stored just now as this message."""
    return ChatAnswer(
        conversation_id=run.conversation_id,
        response=said.response,
        tool_calls=list(said.tool_calls),
        message_id=message_id,
        turn_id=run.turn_id,
        usage=UNSET if said.usage is None else said.usage,
        finish_reason=UNSET if said.finish_reason is None else said.finish_reason,
    )


async def answer_of(session: AsyncSession, turn: Turn) -> Stored | None:
    """The turn's stored answer, the last one as in `to_history`; None when it had said and done nothing."""
    messages = await session.scalars(
        select(Message)
        .where(Message.turn_id == turn.id, Message.user_id == turn.user_id, Message.role == "assistant")
        .order_by(Message.id)
    )
    *_, message = [None, *messages]
    if message is None:
        return None
    calls = msgspec.convert(message.tool_calls, list[ToolCall])
    answer = ChatAnswer(
        conversation_id=turn.conversation_id,
        response=message.content,
        tool_calls=calls,
        message_id=message.id,
        turn_id=turn.id,
        usage=UNSET if turn.usage is None else msgspec.convert(turn.usage, TurnUsage),
        finish_reason=UNSET
        if turn.finish_reason is None
        else msgspec.convert(turn.finish_reason, FinishReason),
    )
    outline = msgspec.convert(message.parts, list[Part] | None)
    return Stored(answer=answer, events=events_of(outline, message.content, calls))
