"""The database's clock: leases of several machines are compared by one clock only."""

from datetime import datetime
from typing import Any

from advanced_alchemy.types import DateTimeUTC
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

# A dead process's turns are free after this. Three heartbeats fit in, so that a slow one kills nobody.
LEASE_SECONDS = 12


class utc_now(FunctionElement[datetime]):  # noqa: N801 - SQL functions are written small
    """Now, as columns of `DateTimeUTC` store it."""

    type = DateTimeUTC(timezone=True)
    inherit_cache = True


class lease_end(FunctionElement[datetime]):  # noqa: N801 - as above
    """When a lease taken now ends."""

    type = DateTimeUTC(timezone=True)
    inherit_cache = True


@compiles(utc_now, "postgresql")
def _(*_: Any, **__: Any) -> str:
    # Not now(): a transaction may have waited for a lock since it began. Not clock_timestamp(): Citus refuses a volatile
    # function in a write.
    return "statement_timestamp()"


@compiles(lease_end, "postgresql")
def _(*_: Any, **__: Any) -> str:
    return f"(statement_timestamp() + interval '{LEASE_SECONDS} seconds')"


@compiles(utc_now, "sqlite")
def _(*_: Any, **__: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(lease_end, "sqlite")
def _(*_: Any, **__: Any) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '+{LEASE_SECONDS} seconds')"
