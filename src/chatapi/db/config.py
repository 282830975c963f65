"""The engine, its sessions, and the one way to begin a transaction."""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import stamina
from advanced_alchemy.config import AsyncSessionConfig
from advanced_alchemy.extensions.litestar import AlembicAsyncConfig, EngineConfig, SQLAlchemyAsyncConfig
from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, TextClause, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from chatapi.db import alone
from chatapi.db.pool import measured_pool
from chatapi.db.resilience import (
    Breaker,
    is_lost_connection,
    is_outage,
    is_read_only,
    is_transient,
    unavailable,
)
from chatapi.metrics import Metrics
from chatapi.settings import Settings, SettingsError
from chatapi.tracing import Tracing

log = logging.getLogger(__name__)

T = TypeVar("T")
Work: TypeAlias = Callable[[AsyncSession], Awaitable[T]]


class Done(NamedTuple, Generic[T]):
    """What a statement came to that was a whole transaction."""

    result: T


AtOnce: TypeAlias = Callable[[alone.Connection], Awaitable[Done[T] | None]]


class Everyone(Enum):
    """In the place of an owner: for what serves all users at once, and shows none of them another's rows."""

    EVERYONE = "everyone"


EVERYONE: Final = Everyone.EVERYONE
Owner: TypeAlias = str | Literal[Everyone.EVERYONE] | None

BYPASSES = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")

PACKAGE = Path(__file__).parents[1]
# Beside the package's modules in a wheel, at the repository's root in a checkout.
MIGRATIONS = (
    PACKAGE / "migrations" if (PACKAGE / "migrations").is_dir() else PACKAGE.parents[1] / "migrations"
)

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
POOL_TIMEOUT = 15  # a burst is better kept waiting than refused; a dead database is the breaker's business
CONNECT_TIMEOUT = 10.0  # Neon wakes a sleeping database in a few seconds
STATEMENT_TIMEOUT = 5.0  # no statement of ours is long; one that is has lost its database
RETRIES: dict[str, Any] = {
    "attempts": 3,  # after the first
    "timeout": 5.0,
    "wait_initial": 0.05,
    "wait_max": 1.0,
    "wait_jitter": 0.1,
}
PINGS: dict[str, Any] = {"attempts": 3, "timeout": None, "wait_initial": 0, "wait_max": 0, "wait_jitter": 0}
# Off, PostgreSQL finds what is the latest by walking an index in its order. On, it may take all of a conversation and
# sort it for ten turns: it expects two, because it multiplies how rare the owner is and how rare the conversation.
BITMAPS = "enable_bitmapscan"
SQLITE_POOL_SIZE = 2  # one writer at a time is all SQLite has; the second covers the hand-over
POSTGRESQL_POOL_SIZE = 15


def database_config(settings: Settings, metrics: Metrics | None = None) -> SQLAlchemyAsyncConfig:
    """What Advanced Alchemy's plugin needs to own engine and session maker.

    The plugin's own session dependency is given another key, because it would commit after, or not at all, where
    ours commits before the response goes out (see `web.dependencies`).
    """
    url, connect_args = engine_url(settings.database_url)
    if settings.sqlite and url.database:
        make_private_file(Path(url.database))
    config = SQLAlchemyAsyncConfig(
        connection_string=url.render_as_string(hide_password=False),
        session_dependency_key="plugin_session",
        session_config=AsyncSessionConfig(expire_on_commit=False),
        engine_config=EngineConfig(
            connect_args=connect_args,
            poolclass=AsyncAdaptedQueuePool if metrics is None else measured_pool(metrics),
            hide_parameters=True,  # what users wrote must not reach a log by way of an error
            pool_size=settings.db_pool_size
            or (SQLITE_POOL_SIZE if settings.sqlite else POSTGRESQL_POOL_SIZE),
            max_overflow=settings.db_max_overflow,
            pool_timeout=POOL_TIMEOUT,
        ),
        alembic_config=AlembicAsyncConfig(
            script_location=str(MIGRATIONS), compare_type=True, render_as_batch=False
        ),
    )
    if settings.sqlite:
        prepare_sqlite(config.get_engine())
    else:
        tell_refusals(config.get_engine())
        replace_closed_connections(config.get_engine())
        if not is_behind_pooler(connect_args):
            plan_for_all(config.get_engine())
    return config


def engine_url(database_url: str) -> tuple[URL, dict[str, Any]]:
    """The URL for SQLAlchemy's asyncpg or aiosqlite dialect, and the driver's arguments.

    Takes the libpq form that Neon and others hand out: `sslmode` and `sslrootcert` become asyncpg's `ssl`,
    `application_name` and `options` become start-up parameters, `channel_binding` is left out (asyncpg has no
    SCRAM-PLUS to bind with).
    Behind a pooler in transaction mode (a host with `-pooler`, or `pgbouncer=true`) no statement is kept prepared.
    """
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise SettingsError("DATABASE_URL: is not a database URL") from None
    if url.drivername in {"sqlite", "sqlite+aiosqlite"}:
        if url.database in {None, "", ":memory:"}:
            raise SettingsError(
                "DATABASE_URL: needs a file; in memory each connection would have a database of its own"
            )
        return url.set(drivername="sqlite+aiosqlite"), {}
    if url.drivername not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise SettingsError(
            f"DATABASE_URL: {url.drivername}:// is not supported; use postgresql:// or sqlite://"
        )

    query: dict[str, Any] = dict(url.query)
    arguments: dict[str, Any] = {"timeout": CONNECT_TIMEOUT, "command_timeout": STATEMENT_TIMEOUT}
    if (encryption := tls(query)) is not None:
        arguments["ssl"] = encryption
    query.pop("channel_binding", None)
    start_up = {name: query.pop(name) for name in ("application_name", "options") if name in query}
    arguments["server_settings"] = {"application_name": "chatapi", **start_up}
    if query.pop("pgbouncer", "") == "true" or "-pooler." in (url.host or ""):
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    if unknown := query.keys() - {"host", "port"}:
        raise SettingsError(f"DATABASE_URL: the parameter {min(unknown)} is not supported")
    return url.set(drivername="postgresql+asyncpg", query=query), arguments


def tls(query: dict[str, Any]) -> str | ssl.SSLContext | None:
    """What asyncpg takes as `ssl` for what `sslmode` and `sslrootcert` say, which are taken out of the query."""
    mode: str | None = query.pop("sslmode", query.pop("ssl", None))
    authorities = query.pop("sslrootcert", None)
    if mode is not None and mode not in SSL_MODES:
        raise SettingsError(f"DATABASE_URL: sslmode is one of {', '.join(SSL_MODES)}")
    if authorities is None and mode not in {"verify-ca", "verify-full"}:
        return mode
    if mode not in {"require", "verify-ca", "verify-full"}:
        raise SettingsError("DATABASE_URL: sslrootcert needs sslmode=require, verify-ca or verify-full")
    try:
        context = ssl.create_default_context(cafile=None if authorities == "system" else authorities)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL: sslrootcert cannot be read: {error.strerror}") from None
    context.check_hostname = (
        mode == "verify-full"
    )  # with the authorities named, require is verify-ca, as for libpq
    return context


def make_private_file(path: Path) -> None:
    """An empty file for SQLite to fill, readable by its owner alone, as are those that SQLite puts beside it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL: {path} cannot be made: {error.strerror}") from None


def prepare_sqlite(engine: AsyncEngine) -> None:
    """Make SQLite behave as a database for several writers.

    The driver's own transaction handling loses updates; with it off, BEGIN IMMEDIATE takes the write lock before the
    first read, and busy_timeout waits for it (https://www.sqlite.org/lang_transaction.html).
    """

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: DBAPIConnection, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def tell_refusals(engine: AsyncEngine) -> None:
    """Mark whatever comes in the place of a connection as a connection that is not there, by whichever SQLSTATE.

    Proxies and poolers have codes of their own for a database that does not start, a quota that is used up, or an
    upstream that is gone: XX000 (Neon, Supavisor), which PostgreSQL says of its own defects, 08P01 (PgBouncer). And a
    role or a database may not be there yet, or a password be rotated.
    """

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(dialect: Dialect, _: Any, arguments: Any, options: Any) -> DBAPIConnection:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError(None, None, error, connection_invalidated=True) from error


def replace_closed_connections(engine: AsyncEngine) -> None:
    """Leave no pooled connection to a request that its server has closed meanwhile.

    asyncpg knows of it without asking, so this costs no round trip, where `pool_pre_ping` costs three a checkout.
    """

    @event.listens_for(engine.sync_engine, "checkout")
    def check(connection: DBAPIConnection, _: Any, __: Any) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError  # SQLAlchemy replaces the connection and tries again


def plan_for_all(engine: AsyncEngine) -> None:
    """Have PostgreSQL plan a statement once for all values, and not anew for each, and in the order of an index.

    Ours are looked up by an owner's index whatever the values are, and to plan a turn's takes longer than to run it.
    Not behind a pooler in transaction mode, where no statement is kept, and a setting would stay on a server of others.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        settings = f"SET plan_cache_mode = force_generic_plan; SET {BITMAPS} = off"
        try:
            connection.run_async(lambda driver: driver.execute(settings))
        except Exception as error:  # of the driver, and of a server that ended meanwhile
            raise DBAPIError(None, None, error, connection_invalidated=True) from error


def is_behind_pooler(connect_args: dict[str, Any]) -> bool:
    """Whether a statement's parse could be handed to one server and its run to another; see `engine_url`."""
    return "statement_cache_size" in connect_args


@cache
def set_local(*names: str) -> TextClause:
    """Sets these until the transaction ends, so that a pooler in transaction mode cannot pass them on."""
    calls = (f"set_config('{name}', :value_{number}, true)" for number, name in enumerate(names))
    return text(f"SELECT {', '.join(calls)}")


class Database:
    """Short transactions on one engine. Nothing else in the package opens a session."""

    def __init__(
        self, config: SQLAlchemyAsyncConfig, metrics: Metrics | None = None, tracing: Tracing | None = None
    ) -> None:
        self.config = config
        self.engine: AsyncEngine = config.get_engine()
        self._tracing = tracing or Tracing()
        self._tracing.watch_statements(self.engine)
        self._metrics = metrics
        self.breaker = Breaker(self.ping, self._tell)
        options = config.engine_config
        self._connections: int = options.pool_size + options.max_overflow  # type: ignore[operator] # both are set
        self._does_at_once = self.engine.dialect.name == "postgresql"
        self._is_behind_pooler = is_behind_pooler(config.engine_config.connect_args)  # type: ignore[arg-type]
        # What comes before a statement that would else be parsed at one server and run at another.
        self._opening = f"BEGIN; SET LOCAL {BITMAPS} = off" if self._is_behind_pooler else None
        self._guarded: bool | None = None if self._does_at_once else False
        self._distrusted_at = float("-inf")
        event.listen(self.engine.sync_engine, "checkout", self._replace_distrusted)
        self._sessions: async_sessionmaker[AsyncSession] = config.create_session_maker()  # type: ignore[assignment]

    @asynccontextmanager
    async def transaction(self, owner: Owner) -> AsyncIterator[AsyncSession]:
        """A transaction: committed when the block ends, rolled back when it raises; its connection goes back.

        PostgreSQL shows and takes rows of `owner` alone, where the role that we connect as is subject to row-level
        security: a query that forgot its owner finds nothing. With None it finds nobody's.

        Raises `DatabaseUnavailable` at once while the breaker is open, and what the driver raises otherwise.
        """
        with self._watched():
            settings = await self._settings(owner)
            async with self._sessions.begin() as session:
                if settings:
                    values = {f"value_{number}": value for number, value in enumerate(settings.values())}
                    await session.execute(set_local(*settings), values)
                yield session

    async def run(
        self,
        owner: Owner,
        work: Work[T],
        recover: Work[T | None] | None = None,
        *,
        at_once: AtOnce[T] | None = None,
    ) -> T:
        """A whole transaction, tried a few times while the database's trouble is of the kind that passes.

        `at_once` is the same as one statement, which sets its owner itself, for a database that can do that; where it
        gives None it has changed nothing, and `work` is done. What was cut off may have happened: a COMMIT, or such a
        statement. On a second try `recover` is therefore asked before `work`: it gives what the earlier try wrote, or
        None when that was lost.
        Raises `DatabaseUnavailable` when the trouble lasts.
        """
        try:
            return await self._try(owner, work, None, at_once)
        except Exception as error:
            if not is_transient(error):
                raise
        try:
            await asyncio.sleep(RETRIES["wait_initial"])
            async for attempt in stamina.retry_context(on=is_transient, **RETRIES):
                if self._metrics is not None:
                    self._metrics.database_retries.inc()
                with attempt:
                    return await self._try(owner, work, recover, at_once)
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise
        raise AssertionError("stamina ends with a result or an error")

    async def _try(
        self, owner: Owner, work: Work[T], recover: Work[T | None] | None, at_once: AtOnce[T] | None
    ) -> T:
        if at_once is not None and self._does_at_once:
            with self._watched():
                done = await alone.run_alone(self.engine, self._opening, self._tracing, at_once)
            if done is not None:
                return done.result
        async with self.transaction(owner) as session:
            if recover is not None and (written := await recover(session)) is not None:
                return written
            return await work(session)

    async def _settings(self, owner: Owner) -> dict[str, str]:
        """What is set for a transaction, by name."""
        settings = {BITMAPS: "off"} if self._is_behind_pooler else {}
        if owner is not None and await self._is_guarded():
            settings |= {"chatapi.everyone": "on"} if owner is EVERYONE else {"chatapi.user_id": owner}
        return settings

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self.breaker.check()
        try:
            yield
        except Exception as error:
            if is_read_only(error):
                # Connections to what was the primary, or from before the order was taken back, would refuse for ever.
                self._distrusted_at = time.monotonic()
            if is_outage(error):
                self.breaker.failed()
            raise
        self.breaker.succeeded()

    def _tell(self, breaker_open: float) -> None:
        if self._metrics is not None:
            self._metrics.breaker_open.set(breaker_open)

    def _replace_distrusted(self, _: DBAPIConnection, record: ConnectionPoolEntry, __: Any) -> None:
        """Give nobody a connection that is older than the last refusal to write."""
        if record.info.setdefault("chatapi.since", time.monotonic()) < self._distrusted_at:
            raise DisconnectionError

    async def _is_guarded(self) -> bool:
        """Whether row-level security holds for the role that we connect as; asked once."""
        if self._guarded is None:
            async with self.engine.connect() as connection:
                self._guarded = not await connection.scalar(BYPASSES)
            log.info(
                "Row-level security is %s", "on" if self._guarded else "off: the database's role bypasses it"
            )
        return self._guarded

    async def ping(self) -> None:
        """Ask the database something; raises what the driver raises when it does not answer.

        A connection that is lost is no answer: it may have been killed with others, and the next one hold.
        """
        async for attempt in stamina.retry_context(on=is_lost_connection, **PINGS):
            with attempt:
                async with self.engine.connect() as connection:
                    await connection.execute(text("SELECT 1"))

    async def check(self) -> None:
        """Raises what the driver raises, or `DatabaseUnavailable`, when the database does not answer.

        While all connections are at work nobody asks: the question would wait behind those who wait for one, and a
        burst would look like an outage. Whether their work gets answers, the breaker knows.
        """
        if self.engine.pool.checkedout() < self._connections:  # type: ignore[attr-defined] # a queue, see config
            await self.ping()
        else:
            self.breaker.check()

    async def close(self) -> None:
        """Close all connections. (Advanced Alchemy's plugin disposes only of the first engine of a process.)"""
        await self.breaker.close()
        await self.engine.dispose()
