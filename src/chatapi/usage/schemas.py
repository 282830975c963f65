"""What a user has used, as the API tells it."""

from datetime import date
from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from chatapi.agent.ports import Usage

By: TypeAlias = Literal["day", "model", "conversation"]


class TurnUsage(Usage, frozen=True, kw_only=True):
    """Tokens of all answers of a model in a turn. `cost` is in USD; it is left out if an answer had no known price."""

    cost: float | UnsetType = UNSET


class Amounts(Struct, frozen=True, kw_only=True):
    """Turns that used a model, and its tokens; cached input is part of the input. `cost` is in USD.

    `cost` is null if an answer had no known price.
    """

    turns: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float | None


class UsageItem(Amounts, frozen=True, kw_only=True, omit_defaults=True):
    """One of `day`, `model` and `conversation_id` is there. A conversation may have been deleted."""

    day: Annotated[date, Meta(examples=["2026-11-29"])] | UnsetType = UNSET
    model: str | UnsetType = UNSET
    conversation_id: int | UnsetType = UNSET


class UsageReport(Struct, frozen=True, kw_only=True):
    """The days from `from` to `to`, both included, by UTC."""

    items: list[UsageItem]
    total: Amounts
