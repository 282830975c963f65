"""What an answer costs, and which settings stop the start."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from chatapi.agent.loading import models_of
from chatapi.agent.ports import ModelAddress, ModelUsage
from chatapi.budgets import PICODOLLARS, window_of
from chatapi.patience import Patience
from chatapi.services import Services
from chatapi.settings import Settings, SettingsError
from chatapi.usage.prices import Prices
from tests.support.agents import CommandedAgent
from tests.support.serving import SECRET, clean_environ, settings_for

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
OPENAI = "https://api.openai.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com"
ANTHROPIC = "https://api.anthropic.com"
OWN = {
    "openai:mine": {"input": 0.15, "cached_input": 0.075, "output": 0.6},
    "openai:like": "openai:gpt-4o",
    "openai:gpt-4o": {"input": 1, "output": 2},
    "tiny": {"input": 0.15, "output": 0},
}


def dollars(model: str, base_url: str | None, *tokens: int, **own: Any) -> Decimal | None:
    """`tokens`: input, output, cached input, and cache writes."""
    names = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")
    settings = settings_for("sqlite:///unused", model_prices=json.dumps(own))
    usage = ModelUsage(base_url=base_url, **dict(zip(names, tokens, strict=False)))  # type: ignore[arg-type]
    cost = Prices.of(settings, []).cost(usage, model, AT)
    return None if cost is None else Decimal(cost) / PICODOLLARS


@pytest.mark.parametrize(
    ("model", "base_url", "tokens", "cost"),
    [
        ("openai:gpt-4", OPENAI, (1000, 0), "0.03"),
        ("openai-responses:gpt-4", OPENAI, (1000, 0), "0.03"),
        ("anthropic:claude-sonnet-4-5", ANTHROPIC, (1000, 100, 300, 500), "0.004065"),
        # The edge of a tier is between two answers, and not in their sum.
        ("google:gemini-2.5-pro", GOOGLE, (200_000, 1000), "0.260"),
        ("google:gemini-2.5-pro", GOOGLE, (200_001, 1000), "0.5150025"),
        # Nobody's address, one of ours, and a model that is listed there without a price.
        ("openai:gpt-4", "http://127.0.0.1:8080/v1", (1000, 0), None),
        ("openai:gpt-4", "https://models.example.com/v1", (1000, 0), None),
        ("openai:gpt-4", None, (1000, 0), None),
        ("openai:gpt-5-super", OPENAI, (1000, 0), None),
        ("google:gemma-3", GOOGLE, (1000, 0), None),
        ("openai:meta/llama:free", "https://openrouter.ai/api/v1", (1000, 0), None),
        # A server that does not count.
        ("openai:gpt-4", OPENAI, (0, 0), None),
        # Prices of one's own come first, wherever the model is.
        ("openai:mine", "http://127.0.0.1:8080/v1", (1000, 100, 200), "0.000195"),
        ("openai:like", "http://127.0.0.1:8080/v1", (1000, 100), "0.0035"),
        ("openai:gpt-4o", OPENAI, (1000, 100), "0.0012"),
        ("tiny", None, (1, 1), "1.5E-7"),
    ],
)
def test_an_answer_costs(model: str, base_url: str | None, tokens: tuple[int, ...], cost: str | None) -> None:
    assert dollars(model, base_url, *tokens, **OWN) == (None if cost is None else Decimal(cost))


@pytest.mark.parametrize(
    ("at", "day_ends", "month_ends"),
    [
        ("2026-11-30T23:59:59", "2026-12-01", "2026-12-01"),
        ("2026-12-31T00:00:00", "2027-01-01", "2027-01-01"),
        ("2028-02-28T12:00:00", "2028-02-29", "2028-03-01"),
    ],
)
def test_windows_follow_the_calendar(at: str, day_ends: str, month_ends: str) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    for span, end in (("day", day_ends), ("month", month_ends)):
        first, next_ = window_of(span, moment)  # type: ignore[arg-type]
        assert next_ == datetime.fromisoformat(end).replace(tzinfo=UTC)
        assert first == (moment.date() if span == "day" else moment.date().replace(day=1))


WRONG = [
    ({"BUDGET_TOKENS": "lots/day"}, "BUDGET_TOKENS: lots/day is not a budget"),
    ({"BUDGET_TOKENS": "1.5/day"}, "BUDGET_TOKENS: 1.5/day"),
    ({"BUDGET_TOKENS": "5/week"}, "BUDGET_TOKENS: 5/week"),
    ({"BUDGET_TOKENS": "5/day,"}, "BUDGET_TOKENS: an empty part is not"),
    ({"BUDGET_TOKENS": "5/day,6/day"}, "BUDGET_TOKENS: has two"),
    ({"BUDGET_COST": "-1/day"}, "BUDGET_COST: -1/day"),
    ({"BUDGET_COST": "0.00/day"}, "BUDGET_COST: 0.00/day"),
    ({"BUDGET_COST": "٣/day"}, "BUDGET_COST: ٣/day"),
    ({"MODEL_PRICES": "cheap"}, "MODEL_PRICES: is not JSON"),
    ({"MODEL_PRICES": '{"openai:x": {"input": 1}}'}, "MODEL_PRICES: openai:x: "),
    ({"MODEL_PRICES": '{"openai:x": {"input": -1, "output": 1}}'}, "MODEL_PRICES: openai:x: `input`"),
    ({"MODEL_PRICES": '{"openai:x": {"input": 1, "output": 1, "cache": 1}}'}, "MODEL_PRICES: openai:x: "),
    (
        {"MODEL_PRICES": '{"openai:x": "openai:nothing-like-it"}'},
        "MODEL_PRICES: openai:x: the price of openai:",
    ),
    ({"MODEL_PRICES": '{"openai:x": "gpt-4o"}'}, "MODEL_PRICES: openai:x: the price of gpt-4o"),
    ({"BUDGET_COST": "1/day", "CHAT_MODEL": "openai:x"}, "BUDGET_COST: the price of openai:x is unknown"),
    (
        {
            "BUDGET_COST": "1/day",
            "CHAT_MODEL": "openai:gpt-4o,openai:gpt-4o-mini",
            "OPENAI_BASE_URL": "http://x",
        },
        "BUDGET_COST: the price of openai:gpt-4o is unknown",
    ),
    (
        {"BUDGET_COST": "1/day", "CHAT_MODEL": "tests.support.agents:CommandedAgent"},
        "BUDGET_COST: the price of commanded is unknown",
    ),
]


def check_start(environ: dict[str, str], directory: Path) -> None:
    settings = Settings.from_env(
        {
            "DATABASE_URL": f"sqlite:///{directory / 'chatapi.db'}",
            "BETTER_AUTH_SECRET": SECRET,
            "OPENAI_API_KEY": "key",
            **environ,
        }
    )
    Services.of(settings, Patience())


@pytest.mark.parametrize(("environ", "said"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_value_stops_the_start_and_names_the_variable(
    environ: dict[str, str], said: str, directory: Path
) -> None:
    with pytest.raises(SettingsError) as stopped:
        check_start(environ, directory)
    assert str(stopped.value).startswith(said)
    assert "\n" not in str(stopped.value)


def test_check_config_says_so_too(directory: Path) -> None:
    environ = {
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "openai:x",
        "OPENAI_API_KEY": "k",
        "BUDGET_COST": "1/day",
    }
    checked = subprocess.run(
        [sys.executable, "-m", "chatapi", "check-config"],
        env={**clean_environ(), **environ},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "chatapi: BUDGET_COST: the price of openai:x is unknown; give it in MODEL_PRICES\n"
    assert (checked.returncode, checked.stderr) == (1, said)


@pytest.mark.parametrize(
    "environ",
    [
        {},  # the offline assistant asks no model
        {"CHAT_MODEL": "openai:gpt-4o,openai-responses:gpt-4o"},
        {"CHAT_MODEL": "openai:x", "MODEL_PRICES": '{"openai:x": {"input": 1, "output": 1}}'},
        {
            "CHAT_MODEL": "openai:x",
            "OPENAI_BASE_URL": "http://x",
            "MODEL_PRICES": '{"openai:x": "google:gemini-2.5-pro"}',
        },
    ],
)
def test_a_budget_in_dollars_takes_models_with_a_price(environ: dict[str, str], directory: Path) -> None:
    check_start({"BUDGET_COST": "5.00/month", **environ}, directory)


def test_an_agent_asks_the_models_that_it_names_or_else_its_own() -> None:
    assert models_of(CommandedAgent()) == [ModelAddress("commanded", None)]


@pytest.mark.slow
def test_the_library_of_prices_is_imported_for_a_price_alone(directory: Path) -> None:
    """It takes a fifth of a second, and an eighth of the memory of a service at rest."""
    program = (
        "import sys; from chatapi.services import Services; from chatapi.settings import Settings; "
        "from chatapi.patience import Patience; from chatapi.agent.ports import ModelUsage; "
        "services = Services.of(Settings.from_env(), Patience()); services.meter.begin(); "
        "services.meter.spent(ModelUsage(input_tokens=1, output_tokens=1, model='openai:m', base_url='http://127.0.0.1')); "
        "print('genai_prices' in sys.modules)"
    )
    environ = {
        "DATABASE_URL": f"sqlite:///{directory / 'chatapi.db'}",
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "openai:m",
        "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1",
        "BUDGET_TOKENS": "5/day",
    }
    said = subprocess.check_output(
        [sys.executable, "-c", program], env={**clean_environ(), **environ}, text=True
    )
    assert said.strip() == "False"
