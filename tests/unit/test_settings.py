"""Settings: read once, checked once, and never showing a secret."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from chatapi.settings import Settings, SettingsError, local_secret
from tests.support.serving import REPOSITORY, SECRET

POSTGRESQL = "postgresql://chat:hunter2@localhost/chat"


class TestFromEnv:
    def test_nothing_is_enough_and_keeps_a_secret(self, tmp_path: Path) -> None:
        first, second = Settings.from_env({}, directory=tmp_path), Settings.from_env({}, directory=tmp_path)
        assert first == second
        assert first.sqlite
        assert first.migrates_itself
        assert len(first.better_auth_secret or "") >= 32

    def test_an_empty_variable_is_an_unset_one(self, tmp_path: Path) -> None:
        assert Settings.from_env({"PORT": "", "JWT_ISSUER": "  "}, directory=tmp_path).jwt_issuer is None

    def test_the_schema_of_postgresql_is_not_migrated_unasked(self) -> None:
        environ = {"DATABASE_URL": POSTGRESQL, "BETTER_AUTH_SECRET": SECRET}
        assert not Settings.from_env(environ).migrates_itself
        assert Settings.from_env({**environ, "MIGRATE": "auto"}).migrates_itself

    @pytest.mark.parametrize("value", ["true", "TRUE", "1"])
    def test_a_switch_is_on(self, tmp_path: Path, value: str) -> None:
        assert Settings.from_env({"DEMO_MODE": value}, directory=tmp_path).demo_mode

    def test_a_log_level_may_be_small(self, tmp_path: Path) -> None:
        assert Settings.from_env({"LOG_LEVEL": "debug"}, directory=tmp_path).log_level == "DEBUG"

    def test_a_secret_is_counted_in_bytes(self) -> None:
        assert Settings.from_env({"BETTER_AUTH_SECRET": "ü" * 16, "DATABASE_URL": POSTGRESQL})
        with pytest.raises(SettingsError, match=r"^BETTER_AUTH_SECRET: has 31 bytes"):
            Settings.from_env({"BETTER_AUTH_SECRET": "x" * 31, "DATABASE_URL": POSTGRESQL})

    def test_no_secret_is_ever_shown(self) -> None:
        settings = Settings.from_env(
            {
                "DATABASE_URL": POSTGRESQL,
                "BETTER_AUTH_SECRET": SECRET,
                "OPENAI_API_KEY": "sk-hunter2",
                "OPENAI_BASE_URL": "https://user:hunter2@gateway.example/v1",
            }
        )
        for shown in (repr(settings), str(settings.public())):
            assert SECRET not in shown
            assert "hunter2" not in shown
            assert "gateway.example/v1" in shown

    def test_an_address_is_one(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"^OPENAI_BASE_URL: "):
            Settings.from_env({"OPENAI_BASE_URL": "localhost:11434"}, directory=tmp_path)

    def test_are_frozen(self, tmp_path: Path) -> None:
        with pytest.raises(AttributeError):
            Settings.from_env({}, directory=tmp_path).port = 1  # type: ignore[misc]


def test_processes_that_start_at_once_agree_on_a_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: local_secret(tmp_path / "data"), range(32)))
    assert len(secrets) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret"]


def test_every_variable_is_explained_in_the_example() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    explained = {
        line.lstrip("# ").split("=")[0] for line in lines if "=" in line and not line.startswith("# ")
    }
    assert explained == {field.encode_name for field in msgspec.structs.fields(Settings)}
