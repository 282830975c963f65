"""Settings: read from the environment once, checked once, then frozen.

Each field of `Settings` is the environment variable of the same name in capitals; `.env.example` explains them all.
"""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from chatapi.text import path_and_message

# The embedded default keeps its database and secret here, below the working directory.
DATA_DIRECTORY = Path(".chatapi")
SECRET_BYTES = 32  # RFC 7518, section 3.2: an HS256 key has at least the hash's length

HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?")

Text = Annotated[str, Meta(min_length=1)]


class SettingsError(Exception):
    """A setting is wrong or missing; the text is one line and names the variable."""


class Settings(Struct, frozen=True, kw_only=True, rename="upper"):
    """What the operator decided. Durations are in seconds."""

    database_url: Text
    db_pool_size: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    db_max_overflow: Annotated[int, Meta(ge=0, le=1_000)] = 0
    migrate: Literal["auto", "off"] | None = None
    better_auth_secret: str | None = None
    jwt_issuer: Text | None = None
    jwt_audience: Text | None = None
    demo_mode: bool = False
    chat_model: Text = "offline"
    chat_history_limit: Annotated[int, Meta(ge=0, le=200)] = 20  # bounds tokens a turn
    chat_timeout: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    mcp_servers: Text | None = None
    mcp_allowed_hosts: Text = "localhost,127.0.0.1,[::1]"
    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, directory: Path = DATA_DIRECTORY
    ) -> "Settings":
        """The settings in `environ` (this process's by default); raises `SettingsError`.

        Without a `DATABASE_URL` the database is a SQLite file in `directory`. SQLite without a secret gets one that
        is made on first use and kept there, readable by its owner alone; PostgreSQL without one is refused, because
        there a secret that each replica made up for itself would be no secret shared.
        """
        environ = os.environ if environ is None else environ
        # An empty variable is an unset one: that is how containers and .env files leave things out.
        values: dict[str, Any] = {
            name: environ[name].strip()
            for name in cls.__struct_encode_fields__
            if environ.get(name, "").strip()
        }
        if "LOG_LEVEL" in values:
            values["LOG_LEVEL"] = values["LOG_LEVEL"].upper()
        values.setdefault("DATABASE_URL", f"sqlite+aiosqlite:///{directory / 'chatapi.db'}")
        if "BETTER_AUTH_SECRET" not in values:
            if not is_sqlite(values["DATABASE_URL"]):
                raise SettingsError(
                    "BETTER_AUTH_SECRET: is needed with a DATABASE_URL that is not SQLite; "
                    "it is the secret of your Better Auth server"
                )
            values["BETTER_AUTH_SECRET"] = local_secret(directory)
        try:
            settings = msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(": ".join(path_and_message(error))) from None
        settings.check()
        return settings

    def check(self) -> None:
        """Raises `SettingsError` for what types cannot say."""
        if self.better_auth_secret is not None and len(self.better_auth_secret.encode()) < SECRET_BYTES:
            raise SettingsError(
                f"BETTER_AUTH_SECRET: has {len(self.better_auth_secret.encode())} bytes; HS256 needs {SECRET_BYTES}"
            )
        for host in self.mcp_hosts or []:
            if not HOST.fullmatch(host):
                raise SettingsError(f"MCP_ALLOWED_HOSTS: {host} is not a host such as chat.example.com")

    @property
    def mcp_hosts(self) -> list[str] | None:
        """By which names `/mcp` may be called; None: by any."""
        hosts = [host.strip().lower() for host in self.mcp_allowed_hosts.split(",") if host.strip()]
        return None if hosts == ["*"] else hosts

    @property
    def sqlite(self) -> bool:
        return is_sqlite(self.database_url)

    @property
    def migrates_itself(self) -> bool:
        return (self.migrate or ("auto" if self.sqlite else "off")) == "auto"

    def public(self) -> dict[str, str]:
        """Every variable with its value as it may be shown: no secret, no password."""
        shown = {name: getattr(self, name.lower()) for name in self.__struct_encode_fields__}
        shown["DATABASE_URL"] = re.sub(r"(?<=://)([^/@]*?):[^/@]*@", r"\1:***@", self.database_url)
        if self.better_auth_secret is not None:
            shown["BETTER_AUTH_SECRET"] = "(set)"  # noqa: S105
        return {name: "(unset)" if value is None else str(value) for name, value in shown.items()}

    def __repr__(self) -> str:  # a secret must not reach a log by way of a traceback
        return f"Settings({self.public()})"


def is_sqlite(database_url: str) -> bool:
    return database_url.startswith("sqlite")


def local_secret(directory: Path) -> str:
    """The secret of the embedded default, made on first use; processes that start at once agree on one."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "secret"
    if not path.exists():
        draft = directory / f".secret-{os.getpid()}-{secrets.token_hex(4)}"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(SECRET_BYTES))
        try:
            path.hardlink_to(draft)  # fails if another was first, and never shows half a secret
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
