"""`chatapi check-config --connect`: what is configured is asked, and what is wrong is said."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from chatapi.patience import Patience
from chatapi.web.checks import ask_all
from tests.support.issuer import issuing
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
