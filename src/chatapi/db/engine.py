"""The engine: its pool, and the settings of each new connection."""

import time
from pathlib import Path
from typing import Any

from advanced_alchemy.config import (
    AlembicAsyncConfig,
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
)
from sqlalchemy import AsyncAdaptedQueuePool, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import PoolProxiedConnection

from chatapi.db.owner import PROPAGATION
from chatapi.db.sqlite import WriteAheadLog, take_transactions_at_their_word
from chatapi.db.url import engine_url, is_behind_pooler
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError

PACKAGE = Path(__file__).parents[1]
# Beside the package's modules in a wheel, at the repository's root in a checkout.
PACKAGED = PACKAGE / "migrations"
MIGRATIONS = PACKAGED if PACKAGED.is_dir() else PACKAGE.parents[1] / "migrations"
# When this is off, PostgreSQL finds the latest turns by walking an index in its order. When on, it may sort a whole
# conversation for ten turns: it expects two, because it multiplies the selectivities of the owner and the conversation.
BITMAPS = "enable_bitmapscan"
# A statement that is given up ends its connection (`db.connections`). The server then ends the statement within this time,
# unless it is of a version or a system that cannot (before 14; Windows).
STOPS_WITH_US = (
    "DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '2s', false); "
    "EXCEPTION WHEN OTHERS THEN NULL; END $$"
)
# Have PostgreSQL plan a statement once for all values, not anew for each, and in the order of an index. Our statements use an
# owner's index whatever the values are, and planning a turn's takes longer than running it.
PLANNED_ONCE = f"SET plan_cache_mode = force_generic_plan; SET {BITMAPS} = off"
# Citus finds the owner's shard by the value, so it plans with the values. Its workers hear of SET LOCAL where this says so.
PASSED_ON = f"SET {PROPAGATION} = 'local'"
# Each user's SET LOCAL is a statement of its own, and must not push out those that all transactions have.
PREPARED_FOR_CITUS = 1_000
SQLITE_POOL_SIZE = 4  # one writes, the others read; what is read is read in microseconds
POSTGRESQL_POOL_SIZE = 15


def database_config(
    settings: Settings,
    patience: Patience,
    poolclass: type[AsyncAdaptedQueuePool] = AsyncAdaptedQueuePool,
    log: WriteAheadLog | None = None,
) -> SQLAlchemyAsyncConfig:
    """The engine and its sessions, and what Alembic is told. `log` is for SQLite, if somebody waits for its syncs."""
    url, connect_args = engine_url(settings.database_url, patience)
    if settings.sqlite and url.database:
        make_private_file(Path(url.database))
        connect_args["log"] = log
    if settings.db_kind == "citus" and not is_behind_pooler(connect_args):
        connect_args["prepared_statement_cache_size"] = PREPARED_FOR_CITUS
    default_size = SQLITE_POOL_SIZE if settings.sqlite else POSTGRESQL_POOL_SIZE
    config = SQLAlchemyAsyncConfig(
        connection_string=url.render_as_string(hide_password=False),
        session_config=AsyncSessionConfig(expire_on_commit=False),
        engine_config=EngineConfig(
            connect_args=connect_args,
            poolclass=poolclass,
            hide_parameters=True,  # what users wrote must not reach a log by way of an error
            pool_size=settings.db_pool_size or default_size,
            max_overflow=settings.db_max_overflow,
            pool_timeout=patience.database_pool,
            pool_use_lifo=settings.sqlite,  # the connection that was used last has the pages cached
        ),
        alembic_config=AlembicAsyncConfig(
            script_location=str(MIGRATIONS), compare_type=True, render_as_batch=False
        ),
    )
    if settings.sqlite:
        take_transactions_at_their_word(config.get_engine())
    else:
        tell_refusals(config.get_engine())
        replace_closed_connections(config.get_engine())
        if not is_behind_pooler(connect_args):
            own = PASSED_ON if settings.db_kind == "citus" else PLANNED_ONCE
            set_for_all(config.get_engine(), f"{own}; {STOPS_WITH_US}")
    return config


def spare(engine: AsyncEngine, connect_args: dict[str, Any]) -> AsyncEngine:
    """Another engine for the same database (PostgreSQL), with one connection."""
    other = create_async_engine(
        engine.url, connect_args=connect_args, pool_size=1, max_overflow=0, hide_parameters=True
    )
    tell_refusals(other)
    replace_closed_connections(other)
    return other


def write_ahead_log(settings: Settings, patience: Patience) -> WriteAheadLog | None:
    """SQLite's log, which an engine's connections share; None on PostgreSQL."""
    url, _ = engine_url(settings.database_url, patience)
    return (
        WriteAheadLog(Path(url.database), patience.database_locked)
        if settings.sqlite and url.database
        else None
    )


def measured_pool(metrics: Metrics) -> type[AsyncAdaptedQueuePool]:
    """A pool that says how large it is, how many of its connections are out, and how long callers wait.

    Returns a class, because SQLAlchemy makes the pool, and makes it anew when it must.
    """

    class MeasuredPool(AsyncAdaptedQueuePool):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            metrics.pool_size.set(self.size())
            event.listen(self, "checkin", self._returns)

        def connect(self) -> PoolProxiedConnection:
            began = time.perf_counter()
            try:
                return super().connect()
            finally:
                metrics.pool_wait_seconds.observe(time.perf_counter() - began)
                metrics.pool_in_use.set(self.checkedout())

        def _returns(self, *_: object) -> None:
            metrics.pool_in_use.set(self.checkedout() - 1)  # told just before the connection is back

    MeasuredPool.__module__ = AsyncAdaptedQueuePool.__module__  # SQLAlchemy names its logger after this
    return MeasuredPool


def make_private_file(path: Path) -> None:
    """Make an empty file for SQLite that only its owner can read; SQLite gives its other files the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL: {path} cannot be made: {error.strerror}") from None


def tell_refusals(engine: AsyncEngine) -> None:
    """Treat every error while connecting as a lost connection, whatever its SQLSTATE.

    Proxies and poolers have codes of their own for a database that does not start, a quota that is used up, or an
    upstream that is gone: XX000 (Neon, Supavisor), which PostgreSQL uses for its own defects, and 08P01 (PgBouncer).
    And a role or a database may not be there yet, or a password may have been rotated.
    """

    @event.listens_for(engine.sync_engine, "handle_error")
    def tell(context: ExceptionContext) -> None:
        if context.connection is None:
            context.is_disconnect = True


def replace_closed_connections(engine: AsyncEngine) -> None:
    """Replace a pooled connection that its server has closed, before a request gets it.

    asyncpg knows of the close without asking, so this costs no round trip, where `pool_pre_ping` costs three a
    checkout.
    """

    @event.listens_for(engine.sync_engine, "checkout")
    def check(connection: DBAPIConnection, _: Any, __: Any) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError  # SQLAlchemy replaces the connection and tries again


def set_for_all(engine: AsyncEngine, settings: str) -> None:
    """Begin each connection with these settings.

    Do not use this behind a pooler in transaction mode: the settings would stay on a server that others use.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        try:
            connection.run_async(lambda driver: driver.execute(settings))
        except Exception as error:  # from the driver, or because the server has ended
            raise DBAPIError(None, None, error, connection_invalidated=True) from error
