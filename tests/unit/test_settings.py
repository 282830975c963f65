"""Settings: read once, checked once, and never showing a secret."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from chatapi.limits.limiter import Limiter
from chatapi.metrics import Metrics
from chatapi.patience import Patience
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

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PORT", "many"),
            ("CHAT_HISTORY_LIMIT", "-1"),
            ("CHAT_TIMEOUT", "0"),
            ("CHAT_MAX_TOKENS", "0"),
            ("DEMO_MODE", "perhaps"),
            ("DB_POOL_SIZE", "0"),
            ("MIGRATE", "always"),
            ("LOG_FORMAT", "xml"),
        ],
    )
    def test_what_is_out_of_bounds_is_refused_by_name(self, tmp_path: Path, name: str, value: str) -> None:
        with pytest.raises(SettingsError, match=f"^{name}: "):
            Settings.from_env({name: value}, directory=tmp_path)

    @pytest.mark.parametrize("value", ["600/minute", "10 per 5 seconds", "1/day", "off", "OFF"])
    def test_a_limit_is_a_number_a_while_or_off(self, tmp_path: Path, value: str) -> None:
        of_users, of_chat, _ = Settings.from_env({"RATE_LIMIT": value}, directory=tmp_path).limits
        assert (of_users is None) == (value.lower() == "off")
        assert of_chat is not None

    @pytest.mark.parametrize("name", ["RATE_LIMIT", "RATE_LIMIT_CHAT", "RATE_LIMIT_SEARCH"])
    @pytest.mark.parametrize("value", ["600", "many/minute", "0/minute", "-1/minute", "600/fortnight", "0"])
    def test_any_other_limit_is_refused(self, tmp_path: Path, name: str, value: str) -> None:
        with pytest.raises(SettingsError, match=f"^{name}: "):
            Settings.from_env({name: value}, directory=tmp_path)

    def test_a_redis_is_named_by_its_url(self, tmp_path: Path) -> None:
        for scheme in ("redis", "rediss", "valkey", "valkeys"):
            settings = Settings.from_env(
                {"REDIS_URL": f"{scheme}://:hunter2@cache:6379/1"}, directory=tmp_path
            )
            assert settings.public()["REDIS_URL"] == f"{scheme}://:***@cache:6379/1"

    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://cache/0", "redis://cache:6379/0"),
            ("redis://cache:/0", "redis://cache:6379/0"),
            ("redis://cache", "redis://cache:6379"),
            ("valkeys://u:p%40w@cache/1?db=2", "rediss://u:p%40w@cache:6379/1?db=2"),
            ("redis://[::1]/0", "redis://[::1]:6379/0"),
            ("valkey://:valkey@valkey:7000/0", "redis://:valkey@valkey:7000/0"),
        ],
    )
    def test_a_redis_has_a_port_by_default_and_speaks_as_a_valkey_does(
        self, tmp_path: Path, url: str, address: str
    ) -> None:
        settings = Settings.from_env({"REDIS_URL": url}, directory=tmp_path)
        assert settings.redis_address == address
        Limiter(settings, Patience(), Metrics("1.0", None))

    @pytest.mark.parametrize(
        "url",
        ["cache:6379", "redis://", "redis:///0", "http://cache", "redis://cache:hunter2", "redis://[::1"],
    )
    def test_what_names_no_redis_is_refused_in_a_line(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(SettingsError, match=r"^REDIS_URL: ") as raised:
            Settings.from_env({"REDIS_URL": url}, directory=tmp_path)
        assert "hunter2" not in str(raised.value)

    @pytest.mark.parametrize(
        "name", ["origins", "limits", "mcp_hosts", "redis_address", "issuers", "issuer_addresses"]
    )
    def test_what_is_parsed_is_kept(self, name: str) -> None:
        settings = Settings(
            database_url="sqlite:///x",
            better_auth_url="https://a.example,https://b.example",
            cors_origins="https://a.example",
            redis_url="redis://cache",
        )
        assert getattr(settings, name) is getattr(settings, name)

    def test_origins_are_a_list_or_all(self, tmp_path: Path) -> None:
        def origins(value: str) -> Sequence[str]:
            return Settings.from_env({"CORS_ORIGINS": value}, directory=tmp_path).origins

        assert origins("") == []
        assert origins("*") == ["*"]
        assert origins(
            "https://a.example, http://localhost:3000,,capacitor://localhost,http://[::1]:5173"
        ) == [
            "https://a.example",
            "http://localhost:3000",
            "capacitor://localhost",
            "http://[::1]:5173",
        ]

    @pytest.mark.parametrize(
        "value",
        [
            "a.example",
            "https://a.example/",
            "https://*.example",
            "https://a.example;b",
            "null",
            "https://A.example",
        ],
    )
    def test_what_no_browser_sends_as_an_origin_is_refused(self, tmp_path: Path, value: str) -> None:
        with pytest.raises(SettingsError, match=r"^CORS_ORIGINS: "):
            Settings.from_env({"CORS_ORIGINS": f"https://good.example,{value}"}, directory=tmp_path)

    def test_a_secret_is_counted_in_bytes(self) -> None:
        assert Settings.from_env({"BETTER_AUTH_SECRET": "ü" * 16, "DATABASE_URL": POSTGRESQL})
        with pytest.raises(SettingsError, match=r"^BETTER_AUTH_SECRET: has 31 bytes"):
            Settings.from_env({"BETTER_AUTH_SECRET": "x" * 31, "DATABASE_URL": POSTGRESQL})

    @pytest.mark.parametrize("name", ["BETTER_AUTH_URL", "JWKS_URL"])
    def test_published_keys_need_no_secret_and_none_is_made(self, tmp_path: Path, name: str) -> None:
        for database in ({}, {"DATABASE_URL": POSTGRESQL}):
            environ = {name: "https://auth.example.org/x", **database}
            assert Settings.from_env(environ, directory=tmp_path).better_auth_secret is None
        assert not list(tmp_path.iterdir())

    def test_postgresql_without_anything_to_check_tokens_by_names_what_there_is(self) -> None:
        with pytest.raises(SettingsError, match=r"BETTER_AUTH_SECRET.*BETTER_AUTH_URL.*JWKS_URL"):
            Settings.from_env({"DATABASE_URL": POSTGRESQL})

    @pytest.mark.parametrize("name", ["BETTER_AUTH_URL", "JWKS_URL"])
    @pytest.mark.parametrize(
        "value",
        [
            "auth.example.org",
            "ftp://auth.example.org",
            Path(__file__).as_uri(),
            "https://",
            "https:///jwks",
            "https://[::1",
            "https://auth.example.org:99999",
            "https://auth.example.org:0",
            "https://auth example.org",
            "https://aüth.example.org",
            "https://auth.example.org/\x01",
            "https://user:hunter2@auth.example.org",
            "https://auth.example.org/#keys",
        ],
    )
    def test_an_address_that_is_none_is_refused_and_its_password_not_shown(
        self, tmp_path: Path, name: str, value: str
    ) -> None:
        with pytest.raises(SettingsError, match=f"^{name}: ") as raised:
            Settings.from_env({name: value}, directory=tmp_path)
        assert "hunter2" not in str(raised.value)

    def test_only_a_key_sets_address_may_have_a_query(self, tmp_path: Path) -> None:
        address = "https://auth.example.org/?tenant=1"
        settings = Settings.from_env({"JWKS_URL": address}, directory=tmp_path)
        assert [issuer.keys_url for issuer in settings.issuers] == [address]
        with pytest.raises(SettingsError):
            Settings.from_env({"BETTER_AUTH_URL": address}, directory=tmp_path)

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

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("postgresql://u:hunter2@h:5432/d?sslmode=require", "postgresql://u:***@h:5432/d"),
            ("postgresql://h/d?user=u&password=hunter2", "postgresql://h/d"),
            ("postgresql://u:hunter2@x@h/d", "postgresql://u:***@h/d"),
            ("postgresql://u:hunter:2@h/d", "postgresql://u:***@h/d"),
            ("postgresql://u:hunter2@[::1]:5432/d", "postgresql://u:***@[::1]:5432/d"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
            ("postgresql:///d?host=/socket", "postgresql:///d"),
            ("POSTGRESQL://h/d", "postgresql://h/d"),
            ("postgresql://u:hunter2/x@h/d", "(set)"),
            ("postgresql://u:1/hunter2@h/d", "(set)"),
            ("postgresql://u:1?hunter2@h/d", "(set)"),
            ("postgresql://u:1#hunter2@h/d", "(set)"),
            ("postgresql://u:hunter2@h:port/d", "(set)"),
            ("postgresql://u:hunter2@[h/d", "(set)"),
            ("u:hunter2@h/d", "(set)"),
            ("u:hunter2", "(set)"),
            ("hunter2", "(set)"),
        ],
    )
    def test_an_address_is_shown_without_what_may_be_a_secret(self, url: str, shown: str) -> None:
        settings = Settings(database_url=url)
        assert settings.public()["DATABASE_URL"] == shown
        assert f"'{shown}'" in repr(settings)

    def test_an_address_is_one(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"^OPENAI_BASE_URL: "):
            Settings.from_env({"OPENAI_BASE_URL": "localhost:11434"}, directory=tmp_path)

    def test_are_frozen(self, tmp_path: Path) -> None:
        with pytest.raises(AttributeError):
            Settings.from_env({}, directory=tmp_path).port = 1  # type: ignore[misc]


class TestBetterAuthURL:
    @pytest.mark.parametrize(
        "value",
        [
            "https://auth.example.org",
            "https://auth.example.org/",
            "https://auth.example.org/api/auth",
            "https://auth.example.org/api/auth/",
        ],
    )
    def test_says_where_the_keys_are_and_what_the_server_calls_itself(self, value: str) -> None:
        (issuer,) = Settings(database_url=POSTGRESQL, better_auth_url=value).issuers
        assert issuer.keys_url == "https://auth.example.org/api/auth/jwks"
        assert issuer.names == issuer.audiences == ["https://auth.example.org", "https://auth.example.org/"]

    def test_keys_may_be_elsewhere(self) -> None:
        (issuer,) = Settings(
            database_url=POSTGRESQL, better_auth_url="https://a.example", jwks_url="https://b.example/jwks"
        ).issuers
        assert issuer.keys_url == "https://b.example/jwks"
        assert issuer.names == issuer.audiences == ["https://a.example", "https://a.example/"]

    def test_without_it_there_is_none(self) -> None:
        assert Settings(database_url=POSTGRESQL).issuers == []


class TestSeveralIssuers:
    """Issuers differ by their keys' address, their name and their tokens' audience."""

    A, B = "https://a.example", "https://b.example"
    OF_A, OF_B = [A, f"{A}/"], [B, f"{B}/"]

    @pytest.mark.parametrize(
        ("values", "issuers"),
        [
            (
                {"BETTER_AUTH_URL": f"{A}, {B}/api/auth"},
                [(f"{A}/api/auth/jwks", OF_A, OF_A), (f"{B}/api/auth/jwks", OF_B, OF_B)],
            ),
            (
                {"BETTER_AUTH_URL": f"{A},{B}", "JWKS_URL": "http://auth/jwks"},
                [("http://auth/jwks", OF_A, OF_A), ("http://auth/jwks", OF_B, OF_B)],
            ),
            (
                {"BETTER_AUTH_URL": A, "JWT_ISSUER": "x,y"},
                [(f"{A}/api/auth/jwks", ["x"], OF_A), (f"{A}/api/auth/jwks", ["y"], OF_A)],
            ),
            (
                {"JWKS_URL": f"{A}/1,{B}/2", "JWT_ISSUER": "x, y,", "JWT_AUDIENCE": "chat,app"},
                [(f"{A}/1", ["x"], ["chat", "app"]), (f"{B}/2", ["y"], ["chat", "app"])],
            ),
            (
                {"JWKS_URL": f"{A}/1", "JWT_AUDIENCE": "chat"},
                [(f"{A}/1", None, ["chat"])],
            ),
        ],
    )
    def test_are_told_apart(
        self, values: dict[str, str], issuers: list[tuple[str, list[str] | None, list[str] | None]]
    ) -> None:
        settings = Settings.from_env({"DATABASE_URL": POSTGRESQL, **values})
        assert [(each.keys_url, each.names, each.audiences) for each in settings.issuers] == issuers

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"JWKS_URL": f"{A}/1,{B}/2"}, "JWKS_URL: has 2 addresses of keys; JWT_ISSUER must name"),
            ({"JWKS_URL": f"{A}/1,{B}/2", "JWT_ISSUER": "x"}, "JWKS_URL: has 2 addresses"),
            ({"BETTER_AUTH_URL": f"{A},{B}", "JWT_ISSUER": "x"}, "BETTER_AUTH_URL: has 2 addresses"),
            ({"BETTER_AUTH_URL": f"{A},milk"}, "BETTER_AUTH_URL: is not a URL"),
            ({"BETTER_AUTH_URL": A, "JWT_AUDIENCE": ","}, "JWT_AUDIENCE: names nothing"),
        ],
    )
    def test_whose_keys_cannot_be_told_stop_the_start(self, values: dict[str, str], said: str) -> None:
        with pytest.raises(SettingsError) as raised:
            Settings.from_env({"DATABASE_URL": POSTGRESQL, **values})
        assert str(raised.value).startswith(said)

    def test_are_shown_without_what_may_be_a_secret(self) -> None:
        settings = Settings(database_url=POSTGRESQL, jwks_url=f"{self.A}/1?key=hunter2,{self.B}/2")
        assert settings.public()["JWKS_URL"] == f"{self.A}/1,{self.B}/2"


def test_processes_that_start_at_once_agree_on_a_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: local_secret(tmp_path / "data"), range(32)))
    assert len(secrets) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret"]


def test_a_secret_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(
        SettingsError, match=r"^BETTER_AUTH_SECRET: is not set, and .*/data/secret can .*: File exists$"
    ):
        Settings.from_env({}, directory=tmp_path / "data")


# Read by Uvicorn, by HTTP clients, by the command `chat` and by OpenTelemetry.
NOT_OURS = {
    *("FORWARDED_ALLOW_IPS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
    *("CHATAPI_TOKEN", "OTEL_EXPORTER_OTLP_ENDPOINT"),
}


def test_every_variable_is_explained_in_the_example() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    explained = {
        line.lstrip("# ").split("=")[0] for line in lines if "=" in line and not line.startswith("# ")
    }
    assert explained == {field.encode_name for field in msgspec.structs.fields(Settings)} | NOT_OURS
