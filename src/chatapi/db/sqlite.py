"""SQLite on the event loop: statements run in its thread, and one sync of the disk serves all who have committed.

A statement of a turn takes some ten microseconds. To hand it to a thread and wait for the answer takes a hundred times
as long when the loop is busy, because two threads of Python take turns of milliseconds. What may take long is handed
over: a DELETE, whose cascades nobody can foresee, and a SELECT that has used up its steps. Nothing waits in a call of
SQLite's: whoever finds the file locked by another process asks again later.
"""

import asyncio
import math
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Executable, event
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection, AsyncAdapt_dbapi_cursor
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from chatapi.tracing import Tracing

T = TypeVar("T")

DRIVER = "sqlite+chatapi"
READS_ONLY = "reads_only"  # an execution option: this transaction shall read, beside whoever writes
OPEN_SECONDS = 5.0  # for a file that another process is just turning into one with a write-ahead log
LOCKED_SECONDS = 5.0  # how long another process may write; of an engine without a log, which migrates alone
ASK_SECONDS = 0.002, 0.05  # between one try to get the lock and the next: at first, and at the most
SOON_SECONDS = 0.05  # until what nobody waits for is synced; a short turn has ended by then
STEPS = 1_000  # of SQLite's virtual machine, between two looks at whether a SELECT has had enough
LOOKS = 200  # which a SELECT has on the loop: some milliseconds
COMMITS_TO_CHECKPOINT = 100  # a log of some megabytes; SQLite's own measure is 1,000 pages, or 4 MB

sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class WriteAheadLog:
    """The log of one file, in so far as its syncs and checkpoints are ours and not SQLite's.

    SQLite would sync the log at each COMMIT (`synchronous=FULL`), with everybody waiting. Here it does not
    (`synchronous=NORMAL`), and whoever must be sure that the disk has what was committed waits for `sync`.
    """

    def __init__(self, database: Path, locked_seconds: float) -> None:
        self.locked_seconds = locked_seconds  # how long another process may write before its lock is an error
        self.write_turn = asyncio.Lock()  # waited for in order
        self._database = database
        self._path = database.with_name(database.name + "-wal")
        self._thread = ThreadPoolExecutor(1, "sqlite-log")
        self._committed = 0
        self._synced = 0
        self._checkpointed = 0
        self._syncing: asyncio.Task[None] | None = None
        self._checkpointing: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None

    def commits(self) -> None:
        """Something has been committed, and is in the log."""
        self._committed += 1

    async def sync(self) -> None:
        """Return when all that has been committed so far survives a power cut; raises OSError."""
        wanted = self._committed
        while self._synced < wanted:
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync_once())
            await asyncio.shield(self._syncing)

    def sync_soon(self) -> None:
        """Have a sync made in a moment, unless somebody waits for one before."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_SECONDS, self._sync_now)

    def _sync_now(self) -> None:
        self._soon = None
        if self._syncing is not None:
            self.sync_soon()  # that one may have begun too early
        elif self._synced < self._committed:
            self._syncing = asyncio.create_task(self._sync_once())

    async def close(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            with suppress(OSError):
                await self.sync()
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        if self._checkpointing is not None:  # which may have begun when the sync was done
            await asyncio.wait([self._checkpointing])
        self._thread.shutdown()

    async def _sync_once(self) -> None:
        committed = self._committed  # what is committed from now on is the next sync's
        try:
            await self._in_thread(self._sync)
            self._synced = committed
        finally:
            self._syncing = None
        if committed - self._checkpointed >= COMMITS_TO_CHECKPOINT and self._checkpointing is None:
            self._checkpointing = asyncio.create_task(self._checkpoint_once())

    async def _checkpoint_once(self) -> None:
        """Move what is in the log into the file. While nobody writes: only a log that is done with begins anew."""
        try:
            async with self.write_turn:
                self._checkpointed = self._committed
                await self._in_thread(self._checkpoint)
        finally:
            self._checkpointing = None

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _sync(self) -> None:
        try:
            log = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:  # the last connection was closed, which moved all of it into the file
            return
        try:
            sync_data(log)
        finally:
            os.close(log)  # SQLite holds no locks on the log, which this would end

    def _checkpoint(self) -> None:
        database = sqlite3.connect(self._database, timeout=0)
        try:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            database.close()


async def in_thread(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """Do `work` with the connection, which nobody else may have before it has ended."""
    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        connection.interrupt()
        with suppress(sqlite3.Error):
            await working
        raise


async def begin_writing(connection: sqlite3.Connection, seconds: float) -> None:
    """Ask for the lock until no other process has it."""
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
    """What SQLAlchemy takes for a connection of an asynchronous driver."""

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
        """With the write lock before the first read, or an update that goes by what was read would be lost."""
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
        self.rollback()  # a cursor that somebody still has would keep the transaction open, and its lock
        self._connection.close()

    def run(self, sql: str, work: Callable[[], T]) -> T:
        """Do `work`, which is this statement and the reading of its rows."""
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
        return await in_thread(connection, work)  # its transaction has lost nothing by it

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
    """SQLAlchemy's own for `sqlite3`, on such connections."""

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
    """One that is compiled once, because SQLAlchemy takes longer to look it up than SQLite to run it.

    Its parameters are those without a value, and are given as they are stored.
    """

    def __init__(self, expression: Executable) -> None:
        self._expression: Any = expression

    @cached_property
    def compiled(self) -> tuple[str, dict[str, Any]]:
        """The text, and the values of those parameters that have one."""
        compiled = self._expression.compile(dialect=Dialect(paramstyle="named"))
        return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


class Transaction:
    """A transaction of such statements."""

    def __init__(self, connection: sqlite3.Connection, tracing: Tracing) -> None:
        self._connection = connection
        self._tracing = tracing

    def rows(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        sql, constants = statement.compiled
        with self._tracing.statement("sqlite", sql):
            return self._connection.execute(sql, {**constants, **values}).fetchall()


async def run(engine: AsyncEngine, tracing: Tracing, work: Callable[[Transaction], T | None]) -> T | None:
    """Do `work` in a transaction, which is rolled back when it gives None. Raises what SQLAlchemy raises.

    Below SQLAlchemy's connection, which costs many times what such statements do, but on its pool.
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
        pooled.close()  # which rolls back what was not committed
    return done


registry.register(DRIVER.replace("+", "."), __name__, Dialect.__name__)


def take_transactions_at_their_word(engine: AsyncEngine) -> None:
    """Let a transaction that says so read only."""

    @event.listens_for(engine.sync_engine, "begin")
    def note(connection: Connection) -> None:
        options = connection.get_execution_options()
        driver: Any = connection.connection.dbapi_connection
        driver.reads_only = options.get(READS_ONLY, False)
