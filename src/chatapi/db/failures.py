"""Which trouble the database is in, and what may be tried again.

Errors are told apart by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) and by type,
because a lost connection rarely surfaces as an OperationalError.
"""

import sqlite3
import ssl

from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chatapi.errors.database import DatabaseFull, DatabaseReadOnly, DatabaseUnavailable, DatabaseUntrusted

OUTAGE_CLASSES = ("08", "57", "58")  # connection, operator intervention, system
OUTAGE_STATES = {"53300"}  # too_many_connections
# Citus tells by these that the coordinator has lost a worker: in the middle of a transaction, or at its COMMIT, whose
# outcome is then unknown.
INTERNAL = "XX000"
LOST_WORKER = ("connection marked as essential", "could not commit transaction for shard")
CONTENTION_STATES = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "23503",  # foreign_key_violation: the row that this one references was just erased
}
READ_ONLY = "25006"  # read_only_sql_transaction
FULL = "53100"  # disk_full
SQLITE_OUTAGES = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
SQLITE_CONTENTION = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_outage(error: BaseException) -> bool:
    """Whether the database, or the way to it, is gone."""
    if isinstance(error, OSError | TimeoutError):  # refused, unknown host, connect and statement time-outs
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    state = sqlstate_of(error)
    return (
        (state == INTERNAL and any(each in str(error.orig) for each in LOST_WORKER))
        or state in OUTAGE_STATES
        or state.startswith(OUTAGE_CLASSES)
        or sqlite_code_of(error) in SQLITE_OUTAGES
    )


def is_lost_connection(error: BaseException) -> bool:
    """Whether an open connection was lost, which says nothing about the next one."""
    return isinstance(error, DBAPIError) and is_outage(error)


def is_read_only(error: BaseException) -> bool:
    """Whether the database answers and takes no writes."""
    return isinstance(error, DBAPIError) and (
        sqlstate_of(error) == READ_ONLY or sqlite_code_of(error) == sqlite3.SQLITE_READONLY
    )


def is_full(error: BaseException) -> bool:
    """Whether there is no room left to write."""
    return isinstance(error, DBAPIError) and (
        sqlstate_of(error) == FULL or sqlite_code_of(error) == sqlite3.SQLITE_FULL
    )


def unavailable(error: BaseException | None) -> DatabaseUnavailable:
    """The error that a caller gets for a transient one."""
    if error is not None and is_read_only(error):
        return DatabaseReadOnly()
    if error is not None and is_full(error):
        return DatabaseFull()
    if isinstance(error, ssl.SSLCertVerificationError):
        return DatabaseUntrusted()
    return DatabaseUnavailable()


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction, run again from its beginning, may succeed."""
    if is_outage(error) or isinstance(error, PoolTimeout) or is_read_only(error) or is_full(error):
        return True
    return isinstance(error, DBAPIError) and (
        sqlstate_of(error) in CONTENTION_STATES or sqlite_code_of(error) in SQLITE_CONTENTION
    )


def cause_of(error: BaseException) -> str:
    """The error in one line, for an operator."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, TimeoutError):
        return "no answer"
    return " ".join(str(cause).split()) or type(cause).__name__


def sqlstate_of(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def sqlite_code_of(error: DBAPIError) -> int | None:
    """SQLite's primary result code (https://www.sqlite.org/rescode.html)."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
