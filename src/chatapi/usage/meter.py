"""Prices what models use, as they tell it, and counts it: for the metrics at once, for a user in the database."""

from collections.abc import Sequence

from chatapi.agent.loading import models_of
from chatapi.agent.ports import Agent, ModelAddress, ModelUsage, Usage
from chatapi.budgets import PICODOLLARS
from chatapi.db.database import Database
from chatapi.db.models import now
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.text import storable
from chatapi.usage.counting import MOST_TOKENS, Spent, count_outside
from chatapi.usage.prices import Prices


class Meter:
    """Serves all turns of a process. `models` may be asked, and `model` stands for an answer that does not name its own."""

    def __init__(
        self,
        database: Database,
        prices: Prices,
        metrics: Metrics,
        *,
        models: Sequence[ModelAddress],
        model: str,
    ) -> None:
        self._database = database
        self._prices = prices
        self._metrics = metrics
        self._models = models
        self._model = model

    @classmethod
    def of(cls, settings: Settings, agent: Agent, database: Database, metrics: Metrics) -> "Meter":
        """Raises `SettingsError` as `Prices.of` does."""
        models = models_of(agent)
        prices = Prices.of(settings, models)
        return cls(database, prices, metrics, models=models, model=agent.model)

    def begin(self) -> None:
        """A model will be asked: load its prices meanwhile."""
        self._prices.load_soon(self._models)

    def spent(self, usage: Usage, *, turns: int = 0) -> Spent:
        """What an answer used just now, with its cost."""
        told = usage if isinstance(usage, ModelUsage) else ModelUsage(input_tokens=0, output_tokens=0)
        model = storable(told.model or self._model)
        used = ModelUsage(
            input_tokens=sane(usage.input_tokens),
            output_tokens=sane(usage.output_tokens),
            cached_input_tokens=min(sane(usage.cached_input_tokens), sane(usage.input_tokens)),
            base_url=told.base_url,
            cache_write_tokens=sane(told.cache_write_tokens),
        )
        at = now()
        cost = self._prices.cost(used, model, at)
        self._show(model, used, cost)
        return Spent(
            day=at.date(),
            model=model,
            turns=turns,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cached_input_tokens=used.cached_input_tokens,
            cost_picodollars=cost,
        )

    async def count(self, user_id: str, conversation_id: int, usage: Usage) -> None:
        """Count an answer to a request outside a turn, such as for a title. Raises `DatabaseUnavailable`.

        If the connection is lost during COMMIT, it may be counted twice.
        """
        spent = self.spent(usage)
        await count_outside(self._database, user_id, conversation_id, [spent], now())

    def _show(self, model: str, used: Usage, cost: int | None) -> None:
        tokens = self._metrics.tokens
        tokens.labels(model, "input").inc(used.input_tokens)
        tokens.labels(model, "cached_input").inc(used.cached_input_tokens)
        tokens.labels(model, "output").inc(used.output_tokens)
        if cost is not None:
            self._metrics.cost.labels(model).inc(cost / PICODOLLARS)


def sane(tokens: int) -> int:
    return max(0, min(tokens, MOST_TOKENS))
