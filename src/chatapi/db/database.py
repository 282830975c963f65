"""The one way to begin a transaction, with retries and a breaker for trouble with the database."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import stamina
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from chatapi.db import autocommit, sqlite
from chatapi.db.breaker import Breaker
from chatapi.db.engine import BITMAPS, database_config, measured_pool, spare, write_ahead_log
from chatapi.db.failures import is_lost_connection, is_outage, is_read_only, is_transient, unavailable
from chatapi.db.freshness import Freshness
from chatapi.db.owner import BYPASSES, PROPAGATION, Owner, passed_on, set_local, shown_to
from chatapi.db.reading import AUTOCOMMIT, SETTINGS, ReadingSession
from chatapi.db.services import DISTRIBUTED
from chatapi.db.sqlite import READS_ONLY
from chatapi.db.url import is_behind_pooler
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.tracing import Tracing

log = logging.getLogger(__name__)

T = TypeVar("T")
Work: TypeAlias = Callable[[AsyncSession], Awaitable[T]]


RETRIES: dict[str, Any] = {
    "attempts": 3,  # after the first
    "timeout": 5.0,
    "wait_initial": 0.05,
    "wait_max": 1.0,
    "wait_jitter": 0.1,
}
PINGS: dict[str, Any] = {"attempts": 3, "timeout": None, "wait_initial": 0, "wait_max": 0, "wait_jitter": 0}


class Database:
    """Short transactions on one engine. Nothing else in the package opens a session."""

    def __init__(self, settings: Settings, patience: Patience, metrics: Metrics, tracing: Tracing) -> None:
        self._log = write_ahead_log(settings, patience)
        self._pool_timeout = patience.database_pool
        self.config = config = database_config(settings, patience, measured_pool(metrics), self._log)
        self.engine: AsyncEngine = config.get_engine()
        self._tracing = tracing
        tracing.watch_statements(self.engine)
        self._metrics = metrics
        self.breaker = Breaker(self._probe, metrics.breaker_open.set, patience)
        options = config.engine_config
        self._connections: int = options.pool_size + options.max_overflow  # type: ignore[operator] # both are set
        self.is_postgresql = self.engine.dialect.name == "postgresql"
        self._arguments: dict[str, Any] = options.connect_args  # type: ignore[assignment] # it is set
        self._is_behind_pooler = is_behind_pooler(self._arguments)
        self.is_distributed = settings.db_kind == "citus"
        # Whether a statement may be a transaction by itself (`db.autocommit`): it sets its owner by a function.
        self.takes_statements = self.is_postgresql and not self.is_distributed
        # Sent before a statement, which a pooler would otherwise let one server parse and another run.
        self._opening = f"BEGIN; SET LOCAL {BITMAPS} = off" if self._is_behind_pooler else None
        self._guarded: bool | None = None if self.is_postgresql else False
        # For what may not wait where all connections are in use; it connects when it is first needed.
        self._spare = spare(self.engine, self._arguments) if self.is_postgresql else self.engine
        self._freshness = Freshness(
            self.engine,
            self._spare,
            hosts=self._arguments.get("async_creator_fn"),
            silence=patience.database_statement / 2,
        )
        self._sessions: async_sessionmaker[AsyncSession] = config.create_session_maker()  # type: ignore[assignment]
        if self.is_distributed:
            self._sessions.configure(info={DISTRIBUTED: True})
        self.reader = self.engine.execution_options(**{READS_ONLY: True})
        self._autocommit = (
            self.engine.execution_options(**AUTOCOMMIT) if self.takes_statements else self.engine
        )

    @asynccontextmanager
    async def transaction(
        self, owner: Owner, *, reads_only: bool = False, ahead: bool = False
    ) -> AsyncIterator[AsyncSession]:
        """A transaction: committed when the block ends, rolled back when it raises.

        On SQLite, transactions that write take turns: in order, or `ahead` of all that wait. With `reads_only` a
        transaction runs beside them, and cannot write.

        If our role is subject to row-level security, PostgreSQL shows and takes rows of `owner` alone: a query that
        forgot its owner finds nothing. With None it finds nobody's rows.

        Raises `DatabaseUnavailable` at once while the breaker is open, and what the driver raises otherwise.
        """
        with self._watched():
            settings = await self._settings(owner)
            async with (
                nullcontext() if reads_only else self._turn_to_write(ahead=ahead),
                self._sessions(bind=self.reader if reads_only else self.engine) as session,
                session.begin(),
            ):
                if settings and self.is_distributed:
                    connection = await session.connection()
                    for name, value in settings.items():
                        await connection.exec_driver_sql(passed_on(name, value))
                elif settings:
                    values = {f"value_{number}": value for number, value in enumerate(settings.values())}
                    await session.execute(set_local(*settings), values)
                yield session
            await self._sync()

    def _turn_to_write(self, *, ahead: bool = False) -> AbstractAsyncContextManager[None]:
        """Wait, without a connection, for this process's other writers: SQLite has one writer."""
        return nullcontext() if self._log is None else self._log.write_turn(self._pool_timeout, ahead=ahead)

    async def run(
        self, owner: Owner, work: Work[T], recover: Work[T | None] | None = None, *, ahead: bool = False
    ) -> T:
        """Run `work` in a `transaction`, and try again as `tried` does.

        A COMMIT that was cut off may have happened. So a second try asks `recover` before `work`: it returns what the
        earlier try wrote, or None if that was lost.
        """

        async def attempt(is_retry: bool) -> T:  # noqa: FBT001 - see `tried`
            async with self.transaction(owner, ahead=ahead) as session:
                if is_retry and recover is not None and (written := await recover(session)) is not None:
                    return written
                return await work(session)

        return await self.tried(attempt)

    async def read(self, owner: Owner, work: Work[T]) -> T:
        """Run `work` in a `reading` session, and try again as `tried` does."""

        async def attempt(_: bool) -> T:  # noqa: FBT001 - see `tried`
            async with self.reading(owner) as session:
                return await work(session)

        return await self.tried(attempt)

    @asynccontextmanager
    async def reading(self, owner: Owner) -> AsyncIterator[AsyncSession]:
        """A session that only reads; raises as `transaction` does.

        On PostgreSQL each select is a transaction by itself (`db.reading`), except behind a pooler or on Citus. On SQLite
        the session is closed without COMMIT, because SQLAlchemy's way to commit takes as long as a short select.
        """
        if self.is_postgresql and (self.is_distributed or self._is_behind_pooler):
            async with self.transaction(owner, reads_only=True) as session:
                yield session
            return
        with self._watched():
            if self.is_postgresql:
                settings = await self._settings(owner)
                session = self._sessions(
                    bind=self._autocommit, sync_session_class=ReadingSession, info={SETTINGS: settings}
                )
            else:
                session = self._sessions(bind=self.reader)
            async with session:
                yield session
            await self._sync()  # what was read may have been written a moment ago

    async def tried(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """The result of `attempt`, tried a few times while the database's trouble is of the kind that passes.

        `attempt` is told whether it is tried again. Raises `DatabaseUnavailable` when the trouble lasts.
        """
        try:
            return await attempt(False)  # noqa: FBT003 - see above
        except Exception as error:
            if not is_transient(error):
                raise
        try:
            await asyncio.sleep(RETRIES["wait_initial"])
            async for retry in stamina.retry_context(on=is_transient, **RETRIES):
                self._metrics.database_retries.inc()
                with retry:
                    return await attempt(True)  # noqa: FBT003 - see above
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise
        raise AssertionError("stamina ends with a result or an error")

    async def statement(
        self, statement: autocommit.Statement, values: Mapping[str, Any], *, ahead: bool = False
    ) -> Sequence[Sequence[Any]]:
        """The rows of a statement that is a transaction by itself, and sets its owner itself; PostgreSQL only.

        If it goes `ahead`, it has a connection of its own where all are in use and others may wait in line.
        A statement that was cut off may have happened. Raises as `transaction` does.
        """
        engine = self._spare if ahead and self._are_all_in_use else self.engine
        with self._watched():
            return await autocommit.run(engine, self._opening, self._tracing, statement, values)

    async def statement_within(
        self, session: AsyncSession, statement: autocommit.Statement, values: Mapping[str, Any]
    ) -> Sequence[Sequence[Any]]:
        """As `statement`, in the transaction of a session of ours."""
        return await autocommit.run_within(session, self._tracing, statement, values)

    @property
    def _are_all_in_use(self) -> bool:
        in_use: int = self.engine.pool.checkedout()  # type: ignore[attr-defined] # a queue, see db.engine
        return in_use >= self._connections

    async def at_once(
        self, work: Callable[[sqlite.Transaction], T | None], *, is_last: bool = True
    ) -> T | None:
        """Do `work`, which must not wait, in a transaction that is rolled back when it returns None; SQLite only.

        Pass `is_last=False` if another transaction comes before anybody is told: then this one does not wait for the
        disk. Raises as `transaction` does.
        """
        with self._watched():
            async with self._turn_to_write():
                done = await sqlite.run(self.engine, self._tracing, work)
            if is_last:
                await self._sync()
            elif self._log is not None:
                self._log.sync_soon()
        return done

    async def _sync(self) -> None:
        if self._log is not None:
            await self._log.sync()

    async def _settings(self, owner: Owner) -> dict[str, str]:
        """The settings for a transaction, by name."""
        settings = {}
        if self._is_behind_pooler:
            settings = {PROPAGATION: "local"} if self.is_distributed else {BITMAPS: "off"}
        if owner is not None and await self._is_guarded():
            settings |= shown_to(owner)
        return settings

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self.breaker.check()
        try:
            yield
        except Exception as error:
            if self.is_postgresql and isinstance(error, TimeoutError):
                self._freshness.suspect()
            if is_read_only(error):
                # Connections to a former primary, or from before a read-only order was lifted, would refuse for ever.
                self._freshness.distrust()
            if is_outage(error):
                self.breaker.failed()
            raise
        self.breaker.succeeded()

    async def _is_guarded(self) -> bool:
        """Whether row-level security holds for the role that we connect as; asked once."""
        if self._guarded is None:
            async with self.engine.connect() as connection:
                self._guarded = not await connection.scalar(BYPASSES)
            state = "on" if self._guarded else "off: the database's role bypasses it"
            log.info("Row-level security is %s", state)
        return self._guarded

    async def _probe(self) -> None:
        """Ask on a new connection, so that an answer means that there is a database for all."""
        self._freshness.distrust()
        await self.ping()

    async def ping(self) -> None:
        """Ask the database something; raises what the driver raises when it does not answer.

        A lost connection is no answer: it may have been killed with others, and the next one may hold.
        """
        async for attempt in stamina.retry_context(on=is_lost_connection, **PINGS):
            with attempt:
                async with self.reader.connect() as connection:
                    await connection.execute(text("SELECT 1"))

    async def check(self) -> None:
        """Raise what the driver raises, or `DatabaseUnavailable`, when the database does not answer.

        It asks nothing while all connections are in use: the question would wait for a connection, and a burst would
        look like an outage. The breaker then knows whether the database answers.
        """
        if self._are_all_in_use:
            self.breaker.check()
        else:
            await self.ping()

    async def close(self) -> None:
        """Close all connections. (Advanced Alchemy's plugin disposes only of the first engine of a process.)"""
        await self.breaker.close()
        if self._log is not None:
            await self._log.close()
        await self._spare.dispose()
        await self.engine.dispose()
