"""Budgets and prices of models, as the settings `BUDGET_TOKENS`, `BUDGET_COST` and `MODEL_PRICES` write them."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from chatapi.text import path_and_message

# Costs are whole picodollars, so that both databases add them exactly: a token costs down to some nanodollars.
PICODOLLARS = 10**12
MAX_TOKENS = 10**15
MAX_DOLLARS = 10**6  # in picodollars that is a tenth of what a column takes
MAX_PRICE = 10_000  # dollars a million tokens

Kind: TypeAlias = Literal["tokens", "cost"]
Span: TypeAlias = Literal["day", "month"]


class Budget(Struct, frozen=True, kw_only=True):
    """What one user may use in a window: tokens, or picodollars. Windows follow the calendar in UTC."""

    kind: Kind
    amount: int
    span: Span

    @property
    def policy(self) -> str:
        """Its name in headers, problems and metrics."""
        return f"{self.kind}-{self.span}"

    @property
    def words(self) -> str:
        if self.kind == "tokens":
            return f"{self.amount} tokens a {self.span}"
        return f"{Decimal(self.amount) / PICODOLLARS} USD a {self.span}"


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars a million tokens. Without `cached_input`, cached input costs what other input does."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None

    def __post_init__(self) -> None:
        for name, price in (
            ("input", self.input),
            ("output", self.output),
            ("cached_input", self.cached_input),
        ):
            if price is not None and not (price.is_finite() and 0 <= price <= MAX_PRICE):
                raise ValueError(f"`{name}` is not a price of 0 to {MAX_PRICE} dollars a million tokens")


Prices: TypeAlias = Mapping[str, Price | str]
decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
decode_price = msgspec.json.Decoder(Price | str).decode


def window_of(span: Span, at: datetime) -> tuple[date, datetime]:
    """The first day of the window that a moment in UTC is in, and the moment when the next one begins."""
    return window_of_day(span, at.date())


@lru_cache(maxsize=8)
def window_of_day(span: Span, day: date) -> tuple[date, datetime]:
    first = day if span == "day" else day.replace(day=1)
    next_ = day + timedelta(days=1) if span == "day" else (first + timedelta(days=31)).replace(day=1)
    return first, datetime.combine(next_, time(), UTC)


def parse_budgets(kind: Kind, value: str | None) -> Sequence[Budget]:
    """The budgets in a setting, separated by commas; raises `ValueError`."""
    if value is None:
        return []
    budgets = [parse_budget(kind, each.strip()) for each in value.split(",")]
    if len({budget.span for budget in budgets}) < len(budgets):
        raise ValueError("has two budgets for the same window")
    return budgets


def parse_budget(kind: Kind, value: str) -> Budget:
    number = r"\d{1,16}" if kind == "tokens" else r"\d{1,7}(?:\.\d{1,12})?"
    match = re.fullmatch(rf"({number})/(day|month)", value, re.ASCII)
    amount = 0 if match is None else int(Decimal(match[1]) * (1 if kind == "tokens" else PICODOLLARS))
    if match is None or not 0 < amount <= (MAX_TOKENS if kind == "tokens" else MAX_DOLLARS * PICODOLLARS):
        example = "200000/day or 200000/day,3000000/month" if kind == "tokens" else "5.00/month"
        raise ValueError(f"{value or 'an empty part'} is not a budget such as {example}")
    return Budget(kind=kind, amount=amount, span="day" if match[2] == "day" else "month")


def parse_prices(value: str | None) -> Prices:
    """The prices in `MODEL_PRICES`; raises `ValueError`."""
    if value is None:
        return {}
    prices: dict[str, Price | str] = {}
    model = ""
    try:
        for model, price in decode_members(value).items():
            prices[model] = decode_price(price)
    except msgspec.ValidationError as error:
        raise ValueError(": ".join(filter(None, (model, *path_and_message(error))))) from None
    except (msgspec.DecodeError, UnicodeError):
        raise ValueError('is not JSON such as {"openai:my-model": {"input": 0.15, "output": 0.6}}') from None
    return prices
