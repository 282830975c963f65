"""The Response object: what a turn was asked for, how far it is, and its items.

https://platform.openai.com/docs/api-reference/responses/object
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from msgspec import UNSET, Struct

from chatapi.agent.ports import Usage
from chatapi.db.paging import MAX_ID
from chatapi.errors.base import AppError
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import TurnCancelled
from chatapi.openai_api.errors import error_of
from chatapi.openai_api.items import Item, ItemStatus, JSONObject, items_of
from chatapi.turns.log import TurnLog
from chatapi.turns.schemas import ChatAnswer, WaitingAnswer
from chatapi.turns.store.asked import AskedTurn

RESPONSE_ID = re.compile(r"resp_([1-9][0-9]{0,18})(?:_([1-9][0-9]{0,5}))?")
CONVERSATION_ID = re.compile(r"conv_([1-9][0-9]{0,18})")

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

# What holds where a request says nothing, by the API's own defaults. The names are those of a Response's members, all of which
# are there: programs made for https://www.openresponses.org ask for them. When a response was completed is not told.
DEFAULTS: JSONObject = {
    "background": False,
    "completed_at": None,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
NOT_COUNTED = Usage(input_tokens=0, output_tokens=0)
INCOMPLETE = {"length": "max_output_tokens", "content-filter": "content_filter"}


class ResponseId(NamedTuple):
    """The turn of a response, and the number of the wait after which the response came; 0 is the turn's beginning."""

    turn_id: int
    wait: int = 0

    @classmethod
    def read(cls, text: str) -> "ResponseId | None":
        found = RESPONSE_ID.fullmatch(text)
        if found is None or int(found[1]) > MAX_ID:
            return None
        return cls(int(found[1]), int(found[2] or 0))


def conversation_of(text: str) -> int | None:
    """The id in a conversation's id, if it can be one."""
    found = CONVERSATION_ID.fullmatch(text)
    return None if found is None or int(found[1]) > MAX_ID else int(found[1])


class Facts(Struct, frozen=True, kw_only=True):
    """What does not change of a response while its turn goes on.

    `used` is what the turn had used when its waits began, by their numbers. `key` is in the ids of the response and its
    items: the turn's id, or, where nothing is stored, one that nothing else has.
    """

    key: int | str
    wait: int
    conversation_id: int | None
    created_at: datetime
    shown: Mapping[str, Any]
    used: Mapping[int, Usage] = {}

    @property
    def id(self) -> str:
        return f"resp_{self.key}" + (f"_{self.wait}" if self.wait else "")


def facts_of(asked: AskedTurn, wait: int) -> Facts:
    """The facts of the turn's response of this number; one that came through our own routes shows what was asked before."""
    number = max((each for each in asked.asked if each <= wait), default=None)
    shown = {} if number is None else asked.asked[number].shown
    return Facts(
        key=asked.turn_id,
        wait=wait,
        conversation_id=asked.conversation_id,
        created_at=asked.created_at,
        shown={"model": asked.model or "", **shown},
        used=asked.used,
    )


class End(Struct, frozen=True, kw_only=True):
    """How a response has ended, or why it is not followed any more although it goes on (`is_left`)."""

    status: Status
    error: AppError | None = None
    reason: str | None = None
    usage: Usage | None = None
    is_left: bool = False

    @property
    def text_status(self) -> ItemStatus | None:
        """The status of a text at the response's end; None while that may go on."""
        if self.status in {"queued", "in_progress"}:
            return None
        return "completed" if self.status == "completed" else "incomplete"


def end_of(log: TurnLog, facts: Facts) -> End | None:
    """The end of the response, once nothing more comes; None while it goes on."""
    before = facts.used.get(facts.wait)
    if log.wait > facts.wait:
        return End(status="completed", usage=without(facts.used.get(facts.wait + 1), before))
    outcome = log.ended
    if isinstance(outcome, ChatAnswer | WaitingAnswer):
        finish = outcome.finish_reason if isinstance(outcome, ChatAnswer) else UNSET
        reason = INCOMPLETE.get(finish or "stop")
        usage = without(outcome.usage or NOT_COUNTED, before)
        return End(status="incomplete" if reason else "completed", reason=reason, usage=usage)
    if outcome is None:
        return None
    is_left = log.outcome is None or isinstance(outcome, DatabaseUnavailable)
    status: Status = "cancelled" if isinstance(outcome, TurnCancelled) else "failed"
    return End(status=status, error=outcome, is_left=is_left)


def without(used: Usage | None, before: Usage | None) -> Usage | None:
    """The usage of one response: a turn's is added up over its waits."""
    if used is None or before is None:
        return used
    return Usage(
        input_tokens=used.input_tokens - before.input_tokens,
        output_tokens=used.output_tokens - before.output_tokens,
        cached_input_tokens=used.cached_input_tokens - before.cached_input_tokens,
    )


def response_of(log: TurnLog, facts: Facts) -> JSONObject:
    """The response as far as it is."""
    end = end_of(log, facts)
    if end is None or end.is_left:
        end = End(status="queued" if log.queued else "in_progress")
    items = items_of(facts.key, log.events, end.text_status)
    return body_of(facts, [item for item in items if item.wait == facts.wait], end)


def body_of(facts: Facts, items: Sequence[Item], end: End) -> JSONObject:
    conversation = facts.conversation_id
    shown = {**DEFAULTS, **facts.shown}
    return {
        "id": facts.id,
        "object": "response",
        "created_at": int(facts.created_at.timestamp()),
        "status": end.status,
        "error": None if end.error is None or end.status != "failed" else failure_of(end.error),
        "incomplete_details": None if end.reason is None else {"reason": end.reason},
        **shown,
        "conversation": None if conversation is None else {"id": f"conv_{conversation}"},
        "output": [item.body for item in items],
        "usage": usage_of(end.usage),
    }


def failure_of(error: AppError) -> JSONObject:
    told = error_of(error)
    return {"code": told.code, "message": told.message}


def usage_of(usage: Usage | None) -> JSONObject | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
