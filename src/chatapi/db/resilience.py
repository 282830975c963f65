"""Which database errors are the database's trouble and not the caller's.

Told apart by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) and by type, because what
surfaces of a lost connection is rarely an OperationalError.
"""

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

TRANSIENT_CLASSES = ("08", "53", "57", "58")  # connection, resources, operator intervention, system
TRANSIENT_STATES = {
    "3D000",  # invalid_catalog_name: the database is not there yet
    "23503",  # foreign_key_violation: what the row hangs on was erased since it was looked for
    "28000",  # invalid_authorization_specification: its role is not there yet
    "28P01",  # invalid_password: it is being rotated
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
}
SQLITE_TRANSIENT = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the database is away, restarting, busy or out of something."""
    if isinstance(
        error, PoolTimeout | OSError | TimeoutError
    ):  # server down, DNS, connect and statement time-outs
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return (error.orig.sqlite_errorcode & 0xFF) in SQLITE_TRANSIENT
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    return sqlstate in TRANSIENT_STATES or sqlstate.startswith(TRANSIENT_CLASSES)
