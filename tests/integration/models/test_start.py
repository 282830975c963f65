"""What is configured decides what is imported, and what is wrong stops the start with one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from chatapi.agent.loading import load_agent
from chatapi.settings import SettingsError
from tests.support.serving import clean_environ, settings_for

# Not pydantic: Litestar imports it where it is installed.
MODEL_LIBRARIES = ("pydantic_ai", "openai", "google.genai", "anthropic", "httpx2")
BLOCKED = "import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
CHECK_CONFIG = "sys.argv = ['chatapi', 'run']; from chatapi.cli import main; main()"


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


def test_the_offline_assistant_imports_no_model_library(directory: Path) -> None:
    code = (
        "import sys; from chatapi.app import create_app; create_app();"
        f"print([name for name in {MODEL_LIBRARIES!r} if name in sys.modules])"
    )
    done = python(directory, code, CHAT_MODEL="offline")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_one_provider_imports_no_other(directory: Path) -> None:
    code = (
        "import sys; from chatapi.app import create_app; create_app();"
        f"print([name for name in {MODEL_LIBRARIES!r} if name in sys.modules])"
    )
    done = python(directory, code, CHAT_MODEL="anthropic:claude-test", ANTHROPIC_API_KEY="key")
    assert done.returncode == 0, done.stderr
    assert "openai" not in done.stdout
    assert "google" not in done.stdout


@pytest.mark.parametrize(
    ("model", "blocked", "extra"),
    [
        ("google:gemini-3-pro", ["google.genai"], "google"),
        ("openai:gpt-5-mini", ["openai"], "openai"),
        ("openai-responses:gpt-5-mini", ["openai"], "openai"),
        ("anthropic:claude-test", ["anthropic"], "anthropic"),
        ("google:gemini-3-pro", ["pydantic_ai"], "google"),
        ("openai-responses:gpt-5-mini", ["pydantic_ai"], "openai"),
    ],
)
def test_a_missing_extra_is_one_line_that_installs_it(
    directory: Path, model: str, blocked: list[str], extra: str
) -> None:
    keys = {"GEMINI_API_KEY": "key", "OPENAI_API_KEY": "key", "ANTHROPIC_API_KEY": "key"}
    done = python(directory, BLOCKED.format(blocked=blocked) + CHECK_CONFIG, CHAT_MODEL=model, **keys)
    assert done.returncode == 1
    assert done.stderr.strip() == f'chatapi: CHAT_MODEL: {model} needs: pip install "chatapi[{extra}]"'


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
        load_agent(settings_for("sqlite:///unused", chat_model=model))


def test_a_server_of_ones_own_needs_no_key() -> None:
    local = settings_for(
        "sqlite:///unused", chat_model="openai:llama3.2", openai_base_url="http://localhost:11434/v1"
    )
    assert load_agent(local).model == "openai:llama3.2"


@pytest.mark.parametrize(
    "model", ["openai:a,offline", "openai:a,mistral:b", "openai:", "openai:a,my_module:own"]
)
def test_what_is_no_model_is_named(model: str) -> None:
    with pytest.raises(SettingsError, match="is not a provider"):
        load_agent(settings_for("sqlite:///unused", chat_model=model, openai_api_key="key"))


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
        load_agent(settings_for("sqlite:///unused", chat_model=model))
