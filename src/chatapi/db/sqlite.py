"""SQLite on the event loop: statements run in its thread, and one sync of the disk serves all who have committed.

A statement of a turn takes some ten microseconds. Handing it to a thread takes a hundred times as long when the loop
is busy, because two threads of Python take turns of milliseconds. Only slow work goes to a thread: a DELETE, whose
cascades nobody can foresee, and a SELECT that has used up its steps. No call of SQLite's waits for a lock: a
transaction that finds the file locked by another process asks again later.
"""

import asyncio
import math
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Executable, event
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection, AsyncAdapt_dbapi_cursor
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from chatapi.tracing import Tracing

T = TypeVar("T")

DRIVER = "sqlite+chatapi"
READS_ONLY = "reads_only"  # an execution option: the transaction only reads, beside the one that writes
OPEN_SECONDS = 5.0  # while another process switches the file to a write-ahead log
LOCKED_SECONDS = 5.0  # how long another process may write; for an engine without a log, which only migrates
ASK_SECONDS = 0.002, 0.05  # between two tries to get the lock: at first, and at most
SOON_SECONDS = 0.05  # until a commit that nobody waits for is synced; a short turn has ended by then
STEPS = 1_000  # of SQLite's virtual machine, between two looks at a SELECT
LOOKS = 200  # at a SELECT before it goes to a thread: some milliseconds
COMMITS_TO_CHECKPOINT = 100  # a log of some megabytes; SQLite's own measure is 1,000 pages, or 4 MB

sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class WriteAheadLog:
    """The write-ahead log of one file, whose syncs and checkpoints we make instead of SQLite.

    SQLite would sync the log at each COMMIT (`synchronous=FULL`), with everybody waiting. Here it does not
    (`synchronous=NORMAL`), and a caller that must be sure that its commit is on the disk waits for `sync`.
    """

    def __init__(self, database: Path, locked_seconds: float) -> None:
        self.locked_seconds = locked_seconds  # how long another process may write before its lock is an error
        self._write_turn = asyncio.Lock()
        self._line = asyncio.Lock()  # waited for in order; who has it is the next to write
        self._database = database
        self._path = database.with_name(database.name + "-wal")
        self._thread = ThreadPoolExecutor(1, "sqlite-log")
        self._committed = 0
        self._synced = 0
        self._checkpointed = 0
        self._syncing: asyncio.Task[None] | None = None
        self._checkpointing: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def write_turn(self, seconds: float | None = None, *, ahead: bool = False) -> AsyncIterator[None]:
        """A turn to write, in order or `ahead` of those that wait; raises SQLAlchemy's `TimeoutError` after `seconds`."""
        try:
            async with asyncio.timeout(seconds), nullcontext() if ahead else self._line:
                await self._write_turn.acquire()
        except TimeoutError:
            raise PoolTimeout("no turn to write") from None
        try:
            yield
        finally:
            self._write_turn.release()

    def commits(self) -> None:
        """Note that something has been committed, and is in the log."""
        self._committed += 1

    async def sync(self) -> None:
        """Wait until all that has been committed so far survives a power cut; raises OSError."""
        wanted = self._committed
        while self._synced < wanted:
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync_once())
            await asyncio.shield(self._syncing)

    def sync_soon(self) -> None:
        """Sync in a moment, unless somebody waits for a sync before."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_SECONDS, self._sync_now)

    def _sync_now(self) -> None:
        self._soon = None
        if self._syncing is not None:
            self.sync_soon()  # the sync under way may have begun too early
        elif self._synced < self._committed:
            self._syncing = asyncio.create_task(self._sync_once())

    async def close(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            with suppress(OSError):
                await self.sync()
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        if self._checkpointing is not None:  # it may have begun after the sync
            await asyncio.wait([self._checkpointing])
        self._thread.shutdown()

    async def _sync_once(self) -> None:
        committed = self._committed  # later commits belong to the next sync
        try:
            await self._in_thread(self._sync)
            self._synced = committed
        finally:
            self._syncing = None
        if committed - self._checkpointed >= COMMITS_TO_CHECKPOINT and self._checkpointing is None:
            self._checkpointing = asyncio.create_task(self._checkpoint_once())

    async def _checkpoint_once(self) -> None:
        """Move the log into the file, while nobody writes: SQLite restarts only a log that is wholly moved."""
        try:
            async with self.write_turn(ahead=True):
                self._checkpointed = self._committed
                await self._in_thread(self._checkpoint)
        finally:
            self._checkpointing = None

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _sync(self) -> None:
        try:
            log = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:  # closing the last connection moved the log into the file
            return
        try:
            sync_data(log)
        finally:
            os.close(log)  # this would end locks on the log, but SQLite holds none

    def _checkpoint(self) -> None:
        database = sqlite3.connect(self._database, timeout=0)
        try:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            database.close()


async def in_thread(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """Do `work` in a thread; nobody else may have the connection before it has ended."""
    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        connection.interrupt()
        with suppress(sqlite3.Error):
            await working
        raise


async def begin_writing(connection: sqlite3.Connection, seconds: float) -> None:
    """Begin with the write lock, and ask again while another process has it."""
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    pause, most = ASK_SECONDS
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or clock() > until:
                raise
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, most)


class LoopConnection(AsyncAdapt_dbapi_connection):
    """A connection as SQLAlchemy expects it of an asynchronous driver."""

    __slots__ = ("_changes", "_is_reader", "_left", "_log", "reads_only")
    _connection: Any

    def __init__(self, connection: sqlite3.Connection, log: WriteAheadLog | None) -> None:
        super().__init__(sqlite3, cast("Any", connection))
        self._log = log
        self._left: float = math.inf
        self._is_reader = False
        self._changes = 0
        self.reads_only = False
        connection.set_progress_handler(self._has_had_enough, STEPS)

    def cursor(self, server_side: bool = False) -> "LoopCursor":  # noqa: ARG002, FBT001, FBT002 - as SQLAlchemy has it
        return LoopCursor(self)

    def create_function(self, *arguments: Any, **options: Any) -> None:
        self._connection.create_function(*arguments, **options)

    def begin(self) -> None:
        self.run_async(lambda _: self.begin_async())

    async def begin_async(self) -> None:
        """Take the write lock before the first read, or an update based on that read could be lost."""
        if self.reads_only != self._is_reader:
            self._connection.execute(f"PRAGMA query_only={self.reads_only:d}")
            self._is_reader = self.reads_only
        self._changes = self._connection.total_changes
        if self.reads_only:
            self._connection.execute("BEGIN")
        else:
            seconds = LOCKED_SECONDS if self._log is None else self._log.locked_seconds
            await begin_writing(self._connection, seconds)

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
            if self._log is not None and self._connection.total_changes != self._changes:
                self._log.commits()

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self.rollback()  # or an open cursor would keep the transaction open, and its lock
        self._connection.close()

    def run(self, sql: str, work: Callable[[], T]) -> T:
        """Do `work`, which runs this statement and reads its rows."""
        return self.run_async(lambda connection: self._run(connection, sql, work))

    async def _run(self, connection: sqlite3.Connection, sql: str, work: Callable[[], T]) -> T:
        if sql.startswith("DELETE"):
            return await in_thread(connection, work)
        if not sql.startswith("SELECT"):
            return work()
        self._left = LOOKS
        try:
            return work()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
        finally:
            self._left = math.inf
        return await in_thread(connection, work)  # the interrupt has cost its transaction nothing

    def _has_had_enough(self) -> bool:
        self._left -= 1
        return self._left < 0


class LoopCursor(AsyncAdapt_dbapi_cursor):
    """A cursor that has read all its rows when its statement is done."""

    __slots__ = ()
    _awaitable_cursor_close = False
    _adapt_connection: LoopConnection
    _cursor: Any

    def _aenter_cursor(self, cursor: Any) -> Any:
        return cursor

    def execute(self, operation: Any, parameters: Any = ()) -> None:
        self._rows = self._adapt_connection.run(
            operation, lambda: deque(self._cursor.execute(operation, parameters or ()).fetchall())
        )

    def executemany(self, operation: Any, seq_of_parameters: Any) -> None:
        self._adapt_connection.run(operation, lambda: self._cursor.executemany(operation, seq_of_parameters))


class Dialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's own dialect for `sqlite3`, on connections of this module."""

    driver = DRIVER.partition("+")[2]
    is_async = True
    supports_statement_cache = True

    def connect(self, *arguments: Any, log: WriteAheadLog | None = None, **options: Any) -> Any:
        connection = sqlite3.connect(
            *arguments,
            **{
                "timeout": OPEN_SECONDS,
                **options,
                "isolation_level": None,  # the module's own way to begin transactions loses updates
                "check_same_thread": False,  # never two threads at once, see LoopConnection
            },
        )
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "wal_autocheckpoint=0" if log is not None else "wal_autocheckpoint=1000",
            "busy_timeout=0",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return LoopConnection(connection, log)

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.dbapi_connection.begin()


class Statement:
    """A statement that is compiled once, because SQLAlchemy takes longer to look it up than SQLite to run it.

    Parameters without a value are given with each run, as they are stored.
    """

    def __init__(self, expression: Executable) -> None:
        self._expression: Any = expression

    @cached_property
    def compiled(self) -> tuple[str, dict[str, Any]]:
        """The text, and the values of those parameters that have one."""
        compiled = self._expression.compile(dialect=Dialect(paramstyle="named"))
        return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


class Transaction:
    """A transaction of such statements, run one after the other."""

    def __init__(self, connection: sqlite3.Connection, tracing: Tracing) -> None:
        self._connection = connection
        self._tracing = tracing

    def rows(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        sql, constants = statement.compiled
        with self._tracing.statement("sqlite", sql):
            return self._connection.execute(sql, {**constants, **values}).fetchall()


async def run(engine: AsyncEngine, tracing: Tracing, work: Callable[[Transaction], T | None]) -> T | None:
    """Do `work` in a transaction, which is rolled back when it returns None. Raises what SQLAlchemy raises.

    It bypasses SQLAlchemy's connection, which costs many times what such statements do, but uses its pool.
    """
    pooled = await engine.raw_connection()
    connection = cast("LoopConnection", pooled.dbapi_connection)
    try:
        connection.reads_only = False
        await connection.begin_async()
        done = work(Transaction(cast("sqlite3.Connection", connection.driver_connection), tracing))
        if done is not None:
            connection.commit()
    except sqlite3.Error as error:
        raise DBAPIError(None, None, error) from error
    finally:
        pooled.close()  # this rolls back what was not committed
    return done


registry.register(DRIVER.replace("+", "."), __name__, Dialect.__name__)


def take_transactions_at_their_word(engine: AsyncEngine) -> None:
    """Have a transaction with the option `reads_only` only read."""

    @event.listens_for(engine.sync_engine, "begin")
    def note(connection: Connection) -> None:
        options = connection.get_execution_options()
        driver: Any = connection.connection.dbapi_connection
        driver.reads_only = options.get(READS_ONLY, False)
