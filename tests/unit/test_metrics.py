"""Metrics of several processes, and what is wrapped around the app, without a server."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from litestar.types import ASGIApp

from chatapi.cli import shared_metrics
from chatapi.logs import access_log
from chatapi.metrics import MULTIPROCESS, Metrics, forget_dead_processes
from chatapi.settings import SettingsError
from chatapi.tracing import Tracing
from chatapi.turns.measures import Telemetry
from chatapi.web.observability import observe
from tests.support.logs import heard
from tests.support.metrics import Samples

COUNT = """
from chatapi.metrics import Metrics
metrics = Metrics("1.0", None)
metrics.requests.labels("GET", "/", 200).inc(3)
metrics.turn_model_seconds.observe(0.3)
metrics.turns_active.set(2)
metrics.breaker_open.set(1)
"""


def count(directory: Path) -> None:
    """Count in a process that then ends, as a worker may."""
    environ = {**os.environ, MULTIPROCESS: str(directory)}
    subprocess.run([sys.executable, "-c", COUNT], env=environ, check=True)


def test_processes_count_together_and_the_dead_have_nothing_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MULTIPROCESS, str(tmp_path))
    metrics = Metrics("1.0", None)
    count(tmp_path)
    count(tmp_path)
    body, media_type = metrics.render("text/plain")
    seen = Samples(body.decode())
    assert media_type.startswith("text/plain")
    assert seen.get("requests_total", method="GET", route="/", status=200) == 6
    assert seen.get("turn_model_seconds_count") == 2
    assert seen.get("turn_model_seconds_bucket", le="0.25") == 0
    assert seen.get("turn_model_seconds_bucket", le="0.5") == 2
    assert "chatapi_turns_active" not in seen.labels
    assert "chatapi_database_breaker_open" not in seen.labels


def test_workers_that_have_nowhere_to_count_are_told_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"^METRICS: .* /tmp"), shared_metrics():
        pass


def test_the_living_are_not_forgotten(tmp_path: Path) -> None:
    count(tmp_path)
    (dead,) = tmp_path.glob("gauge_livesum_*.db")
    living = dead.rename(tmp_path / f"gauge_livesum_{os.getpid()}.db")
    forget_dead_processes(tmp_path)
    assert living.exists()


async def test_what_is_no_http_passes_unobserved() -> None:
    passed = []

    async def app(scope: Any, _: Any, __: Any) -> None:
        passed.append(scope["type"])

    telemetry = Telemetry(Metrics("1.0", None), Tracing())
    observed = cast("Any", observe(cast("ASGIApp", app), telemetry, access_log("INFO", "json")))
    with heard("chatapi.access") as messages:
        await observed({"type": "websocket"}, None, None)
    assert passed == ["websocket"]
    assert messages == []
