"""`chatapi check-config`: what is wrong is said, and with `--connect` what is configured is asked, too."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatapi.cli import APP, APP_VARIABLE, check_config
from chatapi.mcp.config import silent_servers
from chatapi.patience import Patience
from chatapi.settings import SettingsError
from chatapi.web.checks import ask_all
from tests.support.issuer import issuing
from tests.support.mcp_server import weather_over_http
from tests.support.postgres import free_port
from tests.support.redis import Redis, redis_server
from tests.support.serving import SECRET, SLOW_MACHINE, clean_environ, serve, settings_for


async def test_asks_everything_that_is_configured(bare_database_url: str, tmp_path: Path) -> None:
    program = redis_server()
    if program is None:
        pytest.skip("there is no Redis to run")
    redis = Redis(program, tmp_path)
    await asyncio.to_thread(redis.start)
    try:
        async with issuing() as issuer:
            settings = settings_for(bare_database_url, better_auth_url=issuer.url, redis_url=redis.url)
            wrong = await ask_all(settings, SLOW_MACHINE)
            assert wrong.pop("DATABASE_URL") == "Run: chatapi database upgrade --no-prompt"
            assert wrong == {"BETTER_AUTH_URL": None, "REDIS_URL": None, "FILES_URL": None}
            async with serve(settings):
                assert set((await ask_all(settings, SLOW_MACHINE)).values()) == {None}
            assert issuer.fetches == 2
    finally:
        redis.stop()


async def test_says_what_does_not_answer_and_why(empty_database_url: str, tmp_path: Path) -> None:
    port = free_port()
    nobody = f"127.0.0.1:{port}"
    settings = settings_for(
        f"postgresql://u:hunter2@{nobody}/d",
        jwks_url=f"http://{nobody}/jwks",
        redis_url=f"redis://{nobody}/0",
        files_url=str(tmp_path / "file"),
    )
    (tmp_path / "file").touch()
    wrong = await ask_all(settings, SLOW_MACHINE)
    assert list(wrong) == ["DATABASE_URL", "JWKS_URL", "REDIS_URL", "FILES_URL"]
    assert str(port) in str(wrong["DATABASE_URL"])
    assert "cannot be fetched" in str(wrong["JWKS_URL"])
    assert str(port) in str(wrong["REDIS_URL"])
    assert "exists" in str(wrong["FILES_URL"])
    assert "hunter2" not in str(wrong)

    none = Patience(check=0)
    assert await ask_all(settings_for(empty_database_url), none) == {
        "DATABASE_URL": "no answer",
        "FILES_URL": "no answer",
    }


@pytest.fixture
def collecting() -> Iterator[None]:
    """The command ends its process, and leaves garbage collection off when it fails."""
    yield
    gc.enable()


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CHAT_MODEL": "nonsense"}, "CHAT_MODEL: is neither offline nor provider:model"),
        ({"CHAT_MODEL": "no.such.module:agent"}, "CHAT_MODEL: no.such.module:agent cannot be loaded"),
        ({"CHAT_MODEL": "openai:gpt-5"}, "OPENAI_API_KEY: is needed"),
        ({"MCP_SERVERS": "missing.json"}, "MCP_SERVERS: missing.json cannot be read"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "OTEL_EXPORTER_OTLP_PROTOCOL: only",
        ),
        ({"DATABASE_URL": "mysql://localhost/x"}, "DATABASE_URL: mysql:// is not supported"),
        ({"DATABASE_URL": "postgresql://localhost:x/d"}, "DATABASE_URL: is not a database URL"),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("connect", [False, True])
def test_refuses_what_a_start_refuses(
    environ: dict[str, str], said: str, directory: Path, monkeypatch: pytest.MonkeyPatch, *, connect: bool
) -> None:
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the working directory is added to it
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {APP_VARIABLE: APP, "BETTER_AUTH_SECRET": SECRET, **environ}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        check_config.callback(connect=connect)  # type: ignore[misc] # the decorated function
    assert str(refused.value).startswith(said)


async def test_names_the_mcp_servers_that_do_not_answer(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    async with weather_over_http() as (url, _):
        servers = {
            "there": {"url": url},
            "far": {"url": f"http://127.0.0.1:{free_port()}/mcp"},
            "near": {"command": "no-such-command"},
        }
        file.write_text(json.dumps({"mcpServers": servers}))
        settings = settings_for("sqlite:///unused", mcp_servers=str(file))
        assert await silent_servers(settings, SLOW_MACHINE) == ["far", "near"]
    assert await silent_servers(settings_for("sqlite:///unused"), SLOW_MACHINE) == []


@pytest.mark.slow
def test_a_process_may_end_as_soon_as_its_files_are_asked(directory: Path) -> None:
    program = (
        "import asyncio; from chatapi.files.storage import Storage; asyncio.run(Storage('files').check())"
    )
    asking = [subprocess.Popen([sys.executable, "-c", program], cwd=directory) for _ in range(24)]
    assert [process.wait(60) for process in asking] == [0] * 24


@pytest.mark.slow
def test_the_command_ends_with_1_when_something_is_wrong(directory: Path) -> None:
    def check(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "chatapi", command, *arguments],
            cwd=directory,
            env={**clean_environ(), "BETTER_AUTH_SECRET": SECRET},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    wrong = check("check-config", "--connect")
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "DATABASE_URL: Run: chatapi database upgrade --no-prompt\n",
    )
    assert check("database", "upgrade", "--no-prompt").returncode == 0
    right = check("check-config", "--connect")
    assert (right.returncode, right.stderr) == (0, "Everything that is configured answers.\n")
    assert "CHAT_MODEL=offline" in right.stdout.splitlines()
