"""The metrics, for Prometheus. Their names and meanings: docs/observability.md.

With several worker processes, each writes its values into the directory `PROMETHEUS_MULTIPROC_DIR`, and the one that is
asked answers with the sum (https://prometheus.github.io/client_python/multiprocess/). `chatapi run` makes the directory.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

# From the read of one row to a turn that is given up. Requests last as long as the turns that they wait for.
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
# For the database's work and the wait for it. The pool gives up after 15 s.
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)

# A person may answer at once or the next day.
WAITS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)

Live: TypeAlias = Literal["livesum", "livemax"]


class Metrics:
    """The metrics of one app, in a registry of its own. Commands that run no app have metrics that nobody reads."""

    def __init__(self, version: str, build: str | None) -> None:
        # `_created` would be a second series for each, and a drop to zero says the same.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._directory = os.environ.get(MULTIPROCESS)

        self.requests = self._counter("requests", "HTTP requests answered", "method", "route", "status")
        self.defects = self._counter("defects", "Requests that ended in 500")
        self.request_seconds = self._histogram("request", "HTTP requests", LONG, "method", "route")

        self.turns_active = self._gauge("turns_active", "Turns under way")
        self.turn_seconds = self._histogram("turn", "Turns, from request to stored answer", LONG, "outcome")
        self.history_load_seconds = self._histogram(
            "history_load",
            "Turns: loading the history, and on PostgreSQL all that begins a turn, which is one statement",
            SHORT,
        )
        self.turn_model_seconds = self._histogram(
            "turn_model", "Turns: the assistant, without its tools", LONG
        )
        self.turn_tools_seconds = self._histogram("turn_tools", "Turns: tools", LONG)
        self.turn_store_seconds = self._histogram(
            "turn_store", "Turns: beginning and ending in the database", SHORT
        )
        self.first_token_seconds = self._histogram("first_token", "Turns: until the first text", LONG)
        self.tokens = self._counter(
            "tokens", "Tokens used, as the model's provider counts them", "model", "kind"
        )
        self.cost = self._counter("cost_dollars", "Cost of the answers that have a price, in USD", "model")
        self.budgets_refused = self._counter("budgets_refused", "Turns refused by a budget", "policy")
        self.tool_calls = self._counter("tool_calls", "Calls of tools by the assistant", "tool", "outcome")
        self.turns_waiting = self._gauge(
            "turns_waiting", "Turns that wait for answers, by the last look", mode="livemax"
        )
        self.wait_seconds = self._histogram(
            "turn_wait", "Waits of turns for answers, by what ended them", WAITS, "ended_by"
        )
        self.feedback = self._counter(
            "feedback", "Ratings of answers, without those that changed nothing", "rating"
        )
        self.streams_active = self._gauge("streams_active", "Streams that a client is reading")

        self.pool_size = self._gauge("database_pool_size", "Connections that the pool may hold")
        self.pool_in_use = self._gauge("database_pool_in_use", "Connections in use")
        self.pool_wait_seconds = self._histogram("database_pool_wait", "Waiting for a connection", SHORT)
        self.database_retries = self._counter("database_retries", "Transactions that were tried again")
        self.breaker_open = self._gauge(
            "database_breaker_open", "1 while the database is known to be away", mode="livemax"
        )
        self.jwks_fetches = self._counter("jwks_fetches", "Fetches of the issuer's keys", "outcome")
        self.rate_limit_hits = self._counter(
            "rate_limit_hits", "Decisions of the rate limits", "policy", "decision"
        )
        self._gauge("build_info", "What is running", "version", "build", mode="livemax").labels(
            version, build or ""
        ).set(1)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Make series that an alert or a graph watches, so that the first event is an increase."""
        for outcome in ("success", "failure"):
            self.jwks_fetches.labels(outcome)
        for rating in ("up", "down"):
            self.feedback.labels(rating)
        for outcome in ("completed", "model-misconfigured"):
            self.turn_seconds.labels(outcome)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition of all worker processes together, and its media type, by what the scraper accepts."""
        encode, media_type = choose_encoder(accept)
        if self._directory is None:
            return encode(self._registry), media_type
        forget_dead_processes(Path(self._directory))
        return encode(MultiProcessCollector(None, self._directory)), media_type  # type: ignore[no-untyped-call]

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"chatapi_{name}_total", meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"chatapi_{name}_seconds", meaning, labels, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str, mode: Live = "livesum") -> Gauge:
        return Gauge(f"chatapi_{name}", meaning, labels, multiprocess_mode=mode, registry=self._registry)


def forget_dead_processes(directory: Path) -> None:
    """Remove the live gauges of workers that were killed. Their counters stay."""
    for path in directory.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not is_alive(pid):
            with suppress(FileNotFoundError):  # another worker removes it at the same moment
                mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
