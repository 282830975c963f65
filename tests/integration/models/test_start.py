"""What is configured decides what is imported, and what is wrong stops the start with one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatapi.agent.loading import load_agent
from chatapi.agent.providers import PROVIDERS
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from chatapi.settings import SettingsError
from tests.integration.models.conftest import WIRES
from tests.support.serving import REPOSITORY, SECRET, clean_environ, settings_for

MODEL_LIBRARIES = ("pydantic_ai", "openai", "google.genai", "anthropic", "httpx2")
# Each is imported where it is needed, and a service that has no need of it starts sooner, and is smaller.
NOT_AT_START = (
    *MODEL_LIBRARIES,
    "advanced_alchemy.alembic.commands",
    "advanced_alchemy.extensions.litestar",
    "aiohttp",
    "alembic",
    "chatapi.auth.jwks",
    "chatapi.mcp.client",
    "chatapi.mcp.server",
    "chatapi.turns.store.postgres",
    "cryptography",
    "httpx",
    "litestar.cli",
    "mako",
    "mcp",
    "opentelemetry.sdk",
    "pydantic",
    "pygments",
    "redis",
    "rich",
)
STARTED = """
import asyncio, os, sys
from chatapi.cli import APP, APP_VARIABLE, settled_app

async def start():
    os.environ[APP_VARIABLE] = APP
    app = settled_app()
    async with app.lifespan():
        pass

asyncio.run(start())
print(*(name for name in {names!r} if name in sys.modules))
import pydantic, rich  # which can be imported as ever
"""
BLOCKED = "import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
START = "sys.argv = ['chatapi', 'run']; from chatapi.cli import main; main()"
LOADED = (
    "from chatapi.agent.loading import load_agent; from chatapi.patience import Patience;"
    "from chatapi.settings import Settings; print(load_agent(Settings.from_env(), Patience()).model)"
)
MODELS = ["google:gemini-3-pro", "openai:gpt-5-mini", "openai-responses:gpt-5-mini", "anthropic:claude-test"]


def python(directory: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={**clean_environ(), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_provider_is_tried_and_explained() -> None:
    """By the tests that run on each wire, and by a row that says what it needs."""
    assert {model.partition(":")[0] for model in WIRES} == set(PROVIDERS)
    rows = re.findall(r"^\| `([\w-]+):", (REPOSITORY / "docs/assistants.md").read_text(), re.M)
    assert set(PROVIDERS) <= set(rows)


@pytest.mark.slow
def test_the_offline_assistant_imports_no_model_library(directory: Path) -> None:
    code = (
        "import sys; from chatapi.app import create_app; create_app();"
        f"print([name for name in {MODEL_LIBRARIES!r} if name in sys.modules])"
    )
    done = python(directory, code, CHAT_MODEL="offline")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "keys_url", "more"),
    [
        ("offline", "", ""),
        ("openai:gpt-5-mini", "", "aiohttp"),
        ("tests.support.agents:CommandedAgent", "", "cryptography"),
        ("offline", "https://issuer.example/jwks", "chatapi.auth.jwks cryptography httpx"),
    ],
)
def test_what_is_not_needed_is_not_imported(directory: Path, model: str, keys_url: str, more: str) -> None:
    """By a start on a database that is migrated already."""
    database_url = f"sqlite:///{directory / 'chatapi.db'}"
    upgrade(settings_for(database_url), Patience())
    environ = {"DATABASE_URL": database_url, "BETTER_AUTH_SECRET": SECRET, "OPENAI_API_KEY": "key"}
    environ |= {"JWKS_URL": keys_url, "JWT_ISSUER": "https://issuer.example", "PYTHONPATH": str(REPOSITORY)}
    done = python(directory, STARTED.format(names=NOT_AT_START), CHAT_MODEL=model, **environ)
    assert (done.stdout.splitlines()[-1].strip(), done.returncode) == (more, 0), done.stderr


def test_the_offline_assistant_is_loaded_by_its_name_like_any_other() -> None:
    by_name = load_agent(
        settings_for("sqlite:///unused", chat_model="chatapi.offline:OfflineAgent"), Patience()
    )
    assert type(load_agent(settings_for("sqlite:///unused", chat_model="offline"), Patience())) is type(
        by_name
    )
    assert by_name.model == "offline"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_four_formats_need_no_extra(directory: Path, model: str) -> None:
    keys = {"GEMINI_API_KEY": "key", "OPENAI_API_KEY": "key", "ANTHROPIC_API_KEY": "key"}
    code = BLOCKED.format(blocked=list(MODEL_LIBRARIES)) + LOADED
    done = python(directory, code, CHAT_MODEL=model, **keys)
    assert (done.stdout.strip(), done.returncode) == (model, 0), done.stderr


def test_a_missing_extra_is_one_line_that_installs_it(directory: Path) -> None:
    code = BLOCKED.format(blocked=["pydantic_ai"]) + START
    done = python(directory, code, CHAT_MODEL="pydantic-ai:mistral:mistral-large-latest")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "chatapi: CHAT_MODEL: pydantic-ai:mistral:mistral-large-latest needs: "
        'pip install "chatapi[pydantic-ai]"'
    )


def test_any_provider_of_pydantic_ai_is_named_behind_it() -> None:
    agent = load_agent(settings_for("sqlite:///unused", chat_model="pydantic-ai:test"), Patience())
    assert agent.model == "test:test"


def test_a_provider_that_pydantic_ai_does_not_know_is_said() -> None:
    with pytest.raises(SettingsError, match=r"^CHAT_MODEL: pydantic-ai:nobody:x cannot be loaded: "):
        load_agent(settings_for("sqlite:///unused", chat_model="pydantic-ai:nobody:x"), Patience())


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("google:gemini-3-pro", "GEMINI_API_KEY"),
        ("openai:gpt-5-mini", "OPENAI_API_KEY"),
        ("openai-responses:gpt-5-mini", "OPENAI_API_KEY"),
        ("anthropic:claude-test", "ANTHROPIC_API_KEY"),
    ],
)
def test_a_missing_key_names_its_variable(model: str, variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: is needed for CHAT_MODEL={model}$"):
        load_agent(settings_for("sqlite:///unused", chat_model=model), Patience())


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("google:gemini-3-pro", "gemini_base_url"),
        ("openai:llama3.2", "openai_base_url"),
        ("openai-responses:llama3.2", "openai_base_url"),
        ("anthropic:llama3.2", "anthropic_base_url"),
    ],
)
def test_a_server_of_ones_own_needs_no_key(model: str, variable: str) -> None:
    local = settings_for("sqlite:///unused", chat_model=model, **{variable: "http://localhost:11434"})
    assert load_agent(local, Patience()).model == model


@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "https://proxy:3128"), ("http_proxy", "socks5://proxy:1080")]
)
def test_a_proxy_that_would_be_passed_by_in_silence_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: is not an http:// proxy"):
        load_agent(settings_for("sqlite:///unused", chat_model="openai:a", openai_api_key="key"), Patience())


@pytest.mark.parametrize(
    "model", ["openai:a,offline", "openai:a,mistral:b", "openai:", "openai:a,my_module:own"]
)
def test_what_is_no_model_is_named(model: str) -> None:
    with pytest.raises(SettingsError, match="is not a provider"):
        load_agent(settings_for("sqlite:///unused", chat_model=model, openai_api_key="key"), Patience())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mistral", "is neither offline nor provider:model"),
        ("no_such_module:agent", "cannot be loaded"),
        ("json:no_such_attribute", "cannot be loaded"),
        ("collections:Counter", "is not an agent"),
        ("sys:path", "is not an agent"),
    ],
)
def test_what_is_no_agent_is_said(model: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_agent(settings_for("sqlite:///unused", chat_model=model), Patience())
