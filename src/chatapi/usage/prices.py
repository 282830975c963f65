"""What an answer of a model costs: by the operator's own prices, or by those of `genai-prices`.

That library is imported with the first price, in a thread: it takes a fifth of a second and 25 MiB. Its prices are part of
the package; it asks nobody.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from ipaddress import ip_address
from threading import Thread
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from chatapi import budgets
from chatapi.agent.ports import ModelAddress, ModelUsage
from chatapi.budgets import PICODOLLARS, Price
from chatapi.settings import Settings, SettingsError

MTOK = 1_000_000
Found: TypeAlias = tuple[Any, Any]  # the library's provider and model


class Prices:
    """The prices of one process."""

    def __init__(self, own: budgets.Prices) -> None:
        self._own = own
        self._loading: Thread | None = None

    @classmethod
    def of(cls, settings: Settings, models: Iterable[ModelAddress]) -> "Prices":
        """Raises `SettingsError` for a price that is another model's and unknown, or for a budget that would never fill."""
        prices = cls(settings.prices)
        for model, price in settings.prices.items():
            if isinstance(price, str) and listed_as(price) is None:
                raise SettingsError(f"MODEL_PRICES: {model}: the price of {price} is unknown")
        if any(budget.kind == "cost" for budget in settings.budgets):
            for each in models:
                if not prices.knows(each):
                    raise SettingsError(
                        f"BUDGET_COST: the price of {each.model} is unknown; give it in MODEL_PRICES"
                    )
        return prices

    def knows(self, address: ModelAddress) -> bool:
        return address.model in self._own or listed_at(address.base_url, address.model) is not None

    def load_soon(self, models: Iterable[ModelAddress]) -> None:
        """Load the library in a thread if the prices of these models are looked up in it."""
        if self._loading is None and any(self._is_listed(each) for each in models):
            self._loading = Thread(target=load, daemon=True, name="prices")
            self._loading.start()

    def cost(self, usage: ModelUsage, model: str, at: datetime) -> int | None:
        """Picodollars; None if the price or the number of tokens is unknown."""
        if not usage.input_tokens and not usage.output_tokens:
            return None
        own = self._own.get(model)
        if isinstance(own, Price):
            dollars: Decimal | None = cost_by(own, usage)
        else:
            found = listed_at(usage.base_url, model) if own is None else listed_as(own)
            dollars = found and cost_listed(found, usage, at)
        return None if dollars is None else int((dollars * PICODOLLARS).to_integral_value())

    def _is_listed(self, address: ModelAddress) -> bool:
        own = self._own.get(address.model)
        return isinstance(own, str) or (own is None and may_be_listed(address.base_url))


def cost_by(price: Price, usage: ModelUsage) -> Decimal:
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    cached_price = price.input if price.cached_input is None else price.cached_input
    return (
        (usage.input_tokens - cached) * price.input
        + cached * cached_price
        + usage.output_tokens * price.output
    ) / MTOK


def cost_listed(found: Found, usage: ModelUsage, at: datetime) -> Decimal | None:
    """The price of one answer by itself: some models cost more from a number of tokens on."""
    from genai_prices import Usage

    provider, info = found
    # More cached tokens than tokens, which some servers tell of, have no price.
    with suppress(ValueError):
        price: Decimal = info.calc_price(
            Usage(
                input_tokens=usage.input_tokens,
                cache_read_tokens=usage.cached_input_tokens or None,
                cache_write_tokens=usage.cache_write_tokens or None,
                output_tokens=usage.output_tokens,
            ),
            provider,
            genai_request_timestamp=at,
        ).total_price
        return price
    return None


def listed_at(base_url: str | None, model: str) -> Found | None:
    """The model at this address of a provider; None if the address is nobody's who has a price for it."""
    return find(model, None, base_url) if may_be_listed(base_url) else None


def listed_as(model: str) -> Found | None:
    """The model of the provider before its colon."""
    return find(model, model.partition(":")[0].removesuffix("-responses"), None)


def find(model: str, provider_id: str | None, base_url: str | None) -> Found | None:
    from genai_prices.data_snapshot import get_snapshot

    name = model.partition(":")[2]
    with suppress(LookupError):
        provider, info = get_snapshot().find_provider_model(name, None, provider_id, base_url)
        return (provider, info) if has_price(info, name) else None
    return None


def has_price(info: Any, name: str) -> bool:
    """Whether its tokens have a price: the library also lists models without one, and counts them as 0."""
    prices = info.prices if isinstance(info.prices, list) else [info]
    return name.endswith(":free") or any(
        each.prices.input_mtok is not None or each.prices.output_mtok is not None for each in prices
    )


def may_be_listed(base_url: str | None) -> bool:
    """False for hosts that are no provider's, which spares the library: an IP address, or a name without a dot."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return "." in host
    return False


def load() -> None:
    """Import the library and look something up, since it reads its prices only then."""
    listed_as("openai:gpt-4o")
