"""Settings: read from the environment once, checked once, then frozen.

Each field of `Settings` is the environment variable of the same name in capitals; `.env.example` explains them all.
"""

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec
from limits import RateLimitItem, parse
from msgspec import Meta, Struct

from chatapi.budgets import Budget, Prices, parse_budgets, parse_prices
from chatapi.text import path_and_message

P = ParamSpec("P")
T = TypeVar("T")
# The embedded default keeps its database and secret here, below the working directory.
DATA_DIRECTORY = Path(".chatapi")
# Somebody at this machine who has not said who they are: in the playground, and in the terminal.
LOCAL_USER = "local"
REDIS_SCHEMES = {"redis", "rediss", "valkey", "valkeys"}
REDIS_PORT = 6379
INPUTS = frozenset({"text", "image", "pdf"})
BUCKETS = ("s3", "gs", "az")  # of what obstore speaks, what keeps what is written
ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:\d{1,5})?|[a-z][a-z0-9+.-]*://\[[0-9a-f:]+\](:\d{1,5})?"
)
SECRET_BYTES = 32  # RFC 7518, section 3.2: an HS256 key has at least the hash's length

BETTER_AUTH_PATH = "/api/auth"  # Better Auth's default; for another path, set JWKS_URL
# The settings that say how tokens are checked.
SIGN_IN = {"BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "JWKS_URL"}
TOOL_PATTERN = re.compile(r"[A-Za-z0-9_*-]{1,64}")
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?")

Text = Annotated[str, Meta(min_length=1)]
HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^/]")]


LISTS_OF_URLS = ("BETTER_AUTH_URL", "JWKS_URL")


class Issuer(Struct, frozen=True, kw_only=True):
    """An issuer whose tokens are accepted: their `iss` and `aud` (None: anything), and the address of its keys."""

    names: Sequence[str] | None
    audiences: Sequence[str] | None
    keys_url: str


class SettingsError(Exception):
    """A setting is wrong or missing; the text is one line and names the variable."""


class Settings(Struct, frozen=True, kw_only=True, rename="upper", dict=True):
    """The operator's decisions. Durations are in seconds. Parsed values are cached.

    `embedded` is true for the embedded default: our own database file and a secret that nobody has chosen.
    """

    embedded: ClassVar[bool] = False

    database_url: Text
    db_kind: Literal["postgresql", "citus"] = "postgresql"
    db_pool_size: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    db_max_overflow: Annotated[int, Meta(ge=0, le=1_000)] = 0
    migrate: Literal["auto", "off"] | None = None
    better_auth_secret: str | None = None
    better_auth_url: Text | None = None
    jwks_url: Text | None = None
    jwt_issuer: Text | None = None
    jwt_audience: Text | None = None
    demo_mode: bool = False
    chat_model: Text = "offline"
    chat_model_input: Text | None = None
    chat_instructions: Text | None = None
    openai_api_key: Text | None = None
    openai_base_url: HttpUrl | None = None
    gemini_api_key: Text | None = None
    gemini_base_url: HttpUrl | None = None
    anthropic_api_key: Text | None = None
    anthropic_base_url: HttpUrl | None = None
    chat_history_limit: Annotated[int, Meta(ge=0, le=200)] = 20  # bounds tokens a turn
    chat_timeout: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    chat_context_tokens: Annotated[int, Meta(ge=1)] | None = None  # of a question and its answer
    chat_max_tokens: Annotated[int, Meta(ge=1)] | None = None  # of each answer of a model
    tool_approval: Text = "off"
    wait_timeout: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0
    titles: Literal["auto", "off"] = "auto"
    compact: Literal["auto", "off"] = "auto"
    rate_limit: Text = "600/minute"
    rate_limit_chat: Text = "60/minute"  # a turn costs a model's time and money, another request milliseconds
    rate_limit_search: Text = "60/minute"  # a search reads all of a user's messages
    budget_tokens: Text | None = None
    budget_cost: Text | None = None
    model_prices: Text | None = None
    redis_url: Text | None = None
    cors_origins: Text | None = None
    hsts_max_age: Annotated[int, Meta(ge=0, le=63_072_000)] = 0
    files_url: Text = str(DATA_DIRECTORY / "files")
    files_per_message: Annotated[int, Meta(ge=0, le=64)] = 8
    file_max_bytes: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 10 * 1024 * 1024
    mcp_servers: Text | None = None
    mcp_conversations: Literal["on", "off"] = "on"
    mcp_allowed_hosts: Text = "localhost,127.0.0.1,[::1]"
    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    # Longer than any proxy in front keeps a connection: Google's balancers 600 s, Caddy 120 s, Heroku 90 s, ALB and nginx
    # 60 s.
    keep_alive_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 620
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] | None = None
    metrics: Literal["on", "off"] = "on"
    metrics_token: Text | None = None
    playground: Literal["on", "off"] | None = None
    chatapi_build: Text | None = None

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, directory: Path = DATA_DIRECTORY
    ) -> "Settings":
        """The settings in `environ` (this process's by default); raises `SettingsError`.

        Without a `DATABASE_URL` the database is a SQLite file in `directory`. If no setting says how tokens are checked,
        SQLite gets a secret that is made on first use and kept there, readable by its owner alone. PostgreSQL is refused
        then, because its replicas would each make a secret of their own.
        """
        environ = os.environ if environ is None else environ
        kind: type[Settings] = cls
        # An empty variable counts as unset: containers and .env files leave settings out that way.
        values: dict[str, Any] = {
            name: environ[name].strip()
            for name in cls.__struct_encode_fields__
            if environ.get(name, "").strip()
        }
        if "LOG_LEVEL" in values:
            values["LOG_LEVEL"] = values["LOG_LEVEL"].upper()
        if not values.keys() & {"DATABASE_URL", *SIGN_IN}:
            kind = EmbeddedDefault
        values.setdefault("DATABASE_URL", f"sqlite:///{directory / 'chatapi.db'}")
        values.setdefault("FILES_URL", str(directory / "files"))
        if not values.keys() & SIGN_IN:
            if not is_sqlite(values["DATABASE_URL"]):
                raise SettingsError(
                    "BETTER_AUTH_SECRET: it, BETTER_AUTH_URL or JWKS_URL is needed with a DATABASE_URL that is not "
                    "SQLite: they say by what tokens are checked"
                )
            values["BETTER_AUTH_SECRET"] = local_secret(directory)
        try:
            settings = msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(": ".join(path_and_message(error))) from None
        settings.check()
        return settings

    def check(self) -> None:
        """Check what types cannot express; raises `SettingsError`."""
        if self.better_auth_secret is not None and len(self.better_auth_secret.encode()) < SECRET_BYTES:
            raise SettingsError(
                f"BETTER_AUTH_SECRET: has {len(self.better_auth_secret.encode())} bytes; HS256 needs {SECRET_BYTES}"
            )
        for name in LISTS_OF_URLS:
            for url in listed(name, getattr(self, name.lower())):
                check_url(name, url)
        _ = self.issuers, self.jwt_issuers, self.jwt_audiences
        _ = self.limits, self.budgets, self.prices
        for origin in self.origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"CORS_ORIGINS: {origin} is not an origin such as https://app.example.com"
                )
        _ = self.redis_address
        for name in listed("TOOL_APPROVAL", self.tool_approval):
            if not TOOL_PATTERN.fullmatch(name):
                raise SettingsError(
                    f"TOOL_APPROVAL: {name} is not off, destructive, all or a tool's name, in which * is any text"
                )
        check_files_url(self.files_url)
        check_db_kind(self.db_kind, self.database_url)
        _ = self.input_kinds
        for host in self.mcp_hosts or []:
            if not HOST.fullmatch(host):
                raise SettingsError(f"MCP_ALLOWED_HOSTS: {host} is not a host such as chat.example.com")

    @cached_property
    def origins(self) -> Sequence[str]:
        """The sites whose pages may read answers; `*` is all of them."""
        return [origin.strip() for origin in (self.cors_origins or "").split(",") if origin.strip()]

    @cached_property
    def limits(self) -> tuple[RateLimitItem | None, RateLimitItem | None, RateLimitItem | None]:
        """The limits of all routes, of chat and of search; None for no limit. Raises `SettingsError`."""
        return (
            rate_limit("RATE_LIMIT", self.rate_limit),
            rate_limit("RATE_LIMIT_CHAT", self.rate_limit_chat),
            rate_limit("RATE_LIMIT_SEARCH", self.rate_limit_search),
        )

    @cached_property
    def budgets(self) -> Sequence[Budget]:
        """What each user may use. Raises `SettingsError`."""
        return [
            *named("BUDGET_TOKENS", parse_budgets, "tokens", self.budget_tokens),
            *named("BUDGET_COST", parse_budgets, "cost", self.budget_cost),
        ]

    @cached_property
    def prices(self) -> Prices:
        """The operator's own prices, by model. Raises `SettingsError`."""
        return named("MODEL_PRICES", parse_prices, self.model_prices)

    @cached_property
    def input_kinds(self) -> frozenset[str] | None:
        """What models take beside text, `image` and `pdf`; None: what a table says of each. Raises `SettingsError`."""
        if self.chat_model_input is None:
            return None
        kinds = frozenset(listed("CHAT_MODEL_INPUT", self.chat_model_input))
        if not kinds <= INPUTS:
            raise SettingsError(f"CHAT_MODEL_INPUT: is not a list of {', '.join(sorted(INPUTS))}")
        return kinds

    @cached_property
    def mcp_hosts(self) -> Sequence[str] | None:
        """The host names that `/mcp` may be called by; None: any."""
        hosts = [host.strip().lower() for host in self.mcp_allowed_hosts.split(",") if host.strip()]
        return None if hosts == ["*"] else hosts

    @property
    def sqlite(self) -> bool:
        return is_sqlite(self.database_url)

    @cached_property
    def redis_address(self) -> str | None:
        """`redis_url` with Redis's scheme for Valkey's, which speaks the same protocol, and with the default port."""
        if self.redis_url is None:
            return None
        try:
            url = urlsplit(self.redis_url)
            port = "" if url.port else f":{REDIS_PORT}"
            good = url.scheme in REDIS_SCHEMES and bool(url.hostname)
        except ValueError:
            good = False
        if not good:
            raise SettingsError(
                "REDIS_URL: is not a redis://, rediss://, valkey:// or valkeys:// URL such as redis://cache:6379/0"
            )
        scheme = url.scheme.replace("valkey", "redis")
        return urlunsplit(url._replace(scheme=scheme, netloc=url.netloc.removesuffix(":") + port))

    @property
    def migrates_itself(self) -> bool:
        return (self.migrate or ("auto" if self.sqlite else "off")) == "auto"

    @property
    def serves_playground(self) -> bool:
        return (self.playground or ("on" if self.embedded or self.demo_mode else "off")) == "on"

    @cached_property
    def jwt_issuers(self) -> Sequence[str] | None:
        """The values of which every token needs one in `iss`; None: those of its `Issuer`."""
        return listed("JWT_ISSUER", self.jwt_issuer) or None

    @cached_property
    def jwt_audiences(self) -> Sequence[str] | None:
        """The values of which every token needs one in `aud`; None: those of its `Issuer`."""
        return listed("JWT_AUDIENCE", self.jwt_audience) or None

    @cached_property
    def issuers(self) -> Sequence[Issuer]:
        """The issuers whose published keys check tokens. Raises `SettingsError` if a key set has no certain issuer.

        A Better Auth server names its address in `iss` and `aud`, or one of its addresses if it has several. Each address
        has an entry of its own, so that the keys of one never check the tokens of another.
        """
        addresses = [
            address.rstrip("/").removesuffix(BETTER_AUTH_PATH)
            for address in listed("BETTER_AUTH_URL", self.better_auth_url)
        ]
        own_names = [[address, f"{address}/"] for address in addresses]
        key_sets = listed("JWKS_URL", self.jwks_url) or [
            f"{each}{BETTER_AUTH_PATH}/jwks" for each in addresses
        ]
        names: Sequence[list[str] | None] = [[name] for name in self.jwt_issuers or ()] or own_names or [None]
        if len(key_sets) not in {0, 1, len(names)}:
            name = "JWKS_URL" if self.jwks_url else "BETTER_AUTH_URL"
            raise SettingsError(
                f"{name}: has {len(key_sets)} addresses of keys; JWT_ISSUER must name the issuer of each, in the same order"
            )
        if len(own_names) == len(names):
            audiences: Sequence[list[str]] = own_names
        else:
            audiences = [[name for each in own_names for name in each]] * len(names)
        return [
            Issuer(
                names=of_issuer,
                audiences=self.jwt_audiences or audience or None,
                keys_url=key_sets[number % len(key_sets)],
            )
            for number, (of_issuer, audience) in enumerate(zip(names, audiences, strict=True))
            if key_sets
        ]

    @cached_property
    def issuer_addresses(self) -> Sequence[str]:
        """The addresses of issuers, where a client may sign in."""
        named = [name for name in self.jwt_issuers or () if name.startswith(("https://", "http://"))]
        return named or listed("BETTER_AUTH_URL", self.better_auth_url)

    def public(self) -> dict[str, str]:
        """Every variable with its value, without secrets and passwords."""
        shown = {name: getattr(self, name.lower()) for name in self.__struct_encode_fields__}
        for name, value in shown.items():
            if name.endswith("_URL") and name != "FILES_URL" and value is not None:
                parts = value.split(",") if name in LISTS_OF_URLS else [value]
                shown[name] = ",".join(without_secrets(part.strip()) for part in parts)
            elif name.endswith(("_SECRET", "_API_KEY", "_TOKEN")) and value is not None:
                shown[name] = "(set)"
        return {name: "(unset)" if value is None else str(value) for name, value in shown.items()}

    def __repr__(self) -> str:  # a traceback must not bring a secret into a log
        return f"Settings({self.public()})"


class EmbeddedDefault(Settings, frozen=True, kw_only=True, rename="upper", dict=True):
    """The settings where neither a database nor a way to check tokens is configured."""

    embedded: ClassVar[bool] = True


def named(name: str, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `parse`, whose `ValueError` names the variable."""
    try:
        return parse(*args, **kwargs)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


def listed(name: str, value: str | None) -> list[str]:
    """The parts of a variable's value, which are separated by commas."""
    if value is None:
        return []
    found = [part for each in value.split(",") if (part := each.strip())]
    if not found:
        raise SettingsError(f"{name}: names nothing")
    return found


def without_secrets(url: str) -> str:
    """The scheme, user, host and path of an address, or `(set)` if its parts are not certain.

    They are not certain if a password has a character that should have been quoted: part of it then looks like a path.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
        certain = url.lower().startswith(f"{parts.scheme}://") and "@" not in "".join(parts[2:])
    except ValueError:
        certain = False
    if not certain:
        return "(set)"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{parts.scheme}://{name}{':***' if colon else ''}{at}{host}{parts.path}"


def check_url(name: str, value: str | None) -> None:
    """Raises `SettingsError` unless the value is an address of a web server. It may hold a password and is not shown."""
    if value is None:
        return
    try:
        url = urlsplit(value)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good or not value.isascii() or not value.isprintable() or " " in value:
        raise SettingsError(f"{name}: is not a URL such as https://auth.example.org")
    if "@" in url.netloc or url.fragment or (url.query and name == "BETTER_AUTH_URL"):
        raise SettingsError(f"{name}: takes no user, password, query or fragment")


def check_db_kind(kind: str, database_url: str) -> None:
    """Raises `SettingsError` for a kind that the database is not."""
    if kind == "citus" and is_sqlite(database_url):
        raise SettingsError("DB_KIND: citus is a PostgreSQL, and DATABASE_URL is SQLite's")


def check_files_url(value: str) -> None:
    """Raises `SettingsError` unless the value is a folder or a bucket. Keys and secrets have variables of their own."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        return
    good = scheme in BUCKETS and rest.strip("/") and "@" not in rest and not {*"?#"} & {*rest}
    if not good and not (scheme == "file" and rest.startswith("/")):
        raise SettingsError(
            f"FILES_URL: is neither a folder nor one of {', '.join(f'{each}://bucket/prefix' for each in BUCKETS)}, "
            "file:///folder"
        )


def rate_limit(name: str, value: str) -> RateLimitItem | None:
    """The limit in a variable, such as 600/minute; None for `off`."""
    if value.lower() == "off":
        return None
    try:
        limit = parse(value)
    except ValueError:
        limit = None
    if limit is None or limit.amount < 1:
        raise SettingsError(f"{name}: is not a limit such as 600/minute or 10/5 seconds, or off")
    return limit


def is_sqlite(database_url: str) -> bool:
    return database_url.startswith("sqlite")


def local_secret(directory: Path) -> str:
    """The secret of the embedded default, made on first use; processes that start at once agree on one.

    Raises `SettingsError`.
    """
    path = directory / "secret"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            make_secret(path)
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"BETTER_AUTH_SECRET: is not set, and {path} can be neither read nor made: {error.strerror}"
        ) from None


def make_secret(path: Path) -> None:
    draft = path.with_name(f".secret-{os.getpid()}-{secrets.token_hex(4)}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(SECRET_BYTES))
    try:
        path.hardlink_to(draft)  # fails if another was first, and never shows half a secret
    except FileExistsError:
        pass
    finally:
        draft.unlink()
