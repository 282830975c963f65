"""Which pooled connections may still be used: those in doubt are replaced when they are next taken."""

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

if TYPE_CHECKING:
    from chatapi.db.connections import Hosts

SINCE, HEARD = "chatapi.since", "chatapi.heard"  # when a connection was first taken, and last given back


class Freshness:
    """Watches the connections of one database's engines."""

    def __init__(self, *engines: AsyncEngine, hosts: "Hosts | None", silence: float) -> None:
        """`silence` is in seconds: a connection that said nothing for so long is as suspect as one that timed out."""
        self._is_postgresql = engines[0].dialect.name == "postgresql"
        self._hosts = hosts
        self._silence = silence
        self._distrusted_at = float("-inf")
        self._silent_since = float("-inf")
        for engine in {*engines}:  # SQLite has one for both purposes
            event.listen(engine.sync_engine, "checkout", self._replace)
            event.listen(engine.sync_engine, "checkin", heard)

    def distrust(self) -> None:
        """Use no connection again that there is now."""
        self._distrusted_at = time.monotonic()

    def suspect(self) -> None:
        """Use no connection again that has been silent, as the one that did not answer in time was, and other hosts first.

        A machine that is gone says nothing on any of them, and each would cost a time-out to find out. A machine that has
        too much to do answers on others meanwhile.
        """
        self._silent_since = time.monotonic() - self._silence
        if self._hosts is not None:
            self._hosts.leave(self._silent_since)

    def _replace(self, connection: DBAPIConnection, record: ConnectionPoolEntry, _: Any) -> None:
        """Replace a connection from before we distrusted all, or one that is silent as another is."""
        since: float = record.info.setdefault(SINCE, time.monotonic())
        if since < self._distrusted_at or record.info.get(HEARD, since) < self._silent_since:
            if self._is_postgresql:
                connection.driver_connection.terminate()  # a goodbye that nobody hears would take 2 s
            raise DisconnectionError


def heard(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    """Note that a connection has been in use, and is given back."""
    record.info[HEARD] = time.monotonic()
