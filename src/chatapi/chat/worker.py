"""This process's lease: while it is renewed, the process's running turns are nobody else's."""

import asyncio
import logging
from uuid import uuid4

from sqlalchemy import delete, insert, update

from chatapi.db import models
from chatapi.db.clock import LEASE_SECONDS, lease_end, utc_now
from chatapi.db.config import Database

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = LEASE_SECONDS / 3


class Worker:
    """One heartbeat a process, however many turns it runs."""

    def __init__(self, database: Database) -> None:
        self.id = uuid4().hex
        self._database = database
        self._registered = False
        self._registering = asyncio.Lock()

    async def register(self) -> None:
        """Make sure that the lease exists; a turn begun without one would look abandoned at once."""
        async with self._registering:
            if not self._registered:
                await self.beat()

    async def beat(self) -> None:
        async with self._database.transaction() as session:
            renewed = await session.scalar(
                update(models.Worker)
                .where(models.Worker.id == self.id)
                .values(lease_until=lease_end())
                .returning(models.Worker.id)
            )
            if renewed is None:
                await session.execute(delete(models.Worker).where(models.Worker.lease_until < utc_now()))
                await session.execute(insert(models.Worker).values(id=self.id, lease_until=lease_end()))
        self._registered = True

    async def run(self) -> None:
        """Renew the lease until cancelled; the database's absence is outlived."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self.beat()
            except Exception:  # whatever is wrong with the database, the next beat tries again
                log.warning(
                    "The heartbeat failed; after %s s without one, others may take over",
                    LEASE_SECONDS,
                    exc_info=True,
                )
