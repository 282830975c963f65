"""This process's lease: while it is renewed, no other process may take its running turns."""

import asyncio
import logging
import time
from uuid import uuid4

from sqlalchemy import Text, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db import models
from chatapi.db.autocommit import Statement
from chatapi.db.clock import LEASE_SECONDS, lease_end, utc_now
from chatapi.db.database import Database
from chatapi.db.services import insert_unless_there
from chatapi.errors.database import DatabaseUnavailable
from chatapi.patience import Patience
from chatapi.turns.loops import every

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = LEASE_SECONDS / 3
LEFT_SECONDS = 30  # a heartbeat that fails by time-outs takes half of this to fail again
ABSENCE = f"No heartbeat; after {LEASE_SECONDS} s without one, others may take this process's turns"
RENEWED = (
    update(models.Worker)
    .where(models.Worker.id == bindparam("id", None, type_=Text()))
    .values(lease_until=lease_end())
    .returning(models.Worker.id)
    .cte("renewed")
)
RENEW = Statement(select(RENEWED.c.id))


class Lease:
    """The lease of one process; the process's turns carry the lease's id.

    A process sends one heartbeat however many turns it runs, and none without turns, so that the database can sleep.

    `turn_seconds` is how long a turn may need its lease.
    """

    def __init__(self, database: Database, patience: Patience, turn_seconds: float) -> None:
        self.id = uuid4().hex
        self._database = database
        self._patience = patience
        self._turn_seconds = turn_seconds
        self._needed_until = float("-inf")
        self._renewed_at = float("-inf")
        self._failed_at = float("-inf")  # the last try, if it was in vain
        self._renewing = asyncio.Lock()

    async def ensure(self) -> None:
        """Renew the lease if it is due; a turn that began without a lease would look abandoned at once.

        On several machines turns begin without one when it cannot be renewed: it is on each of them, and whoever has
        nothing on the one that is away should not notice. A turn that loses its own machine ends as in any outage.
        """
        self._needed_until = time.monotonic() + self._turn_seconds
        async with self._renewing:
            if not self._is_due:
                return
            try:
                await self.beat()
            except DatabaseUnavailable:
                if not self._database.is_distributed:
                    raise
                log.warning(ABSENCE)

    @property
    def _is_due(self) -> bool:
        """After a failure on several machines only the heartbeat renews for a while: each turn would wait to fail again."""
        now = time.monotonic()
        is_left = self._database.is_distributed and now - self._failed_at < LEFT_SECONDS
        return not is_left and now - self._renewed_at > self._patience.lease_renewal

    async def beat(self) -> None:
        """Renew the lease, or take it; raises `DatabaseUnavailable`."""
        before = time.monotonic()
        try:
            await self._take()
        except DatabaseUnavailable:
            self._failed_at = time.monotonic()
            raise
        self._renewed_at, self._failed_at = before, float("-inf")

    async def _take(self) -> None:
        # In a line of others, which may be longer than a lease, this process's own turns would be taken for dead.
        if not (self._database.takes_statements and await self._renew_by_statement()):
            await self._database.run(None, self._renew, ahead=True)

    async def release(self) -> None:
        """Give the lease up; for the shutdown. Turns that could not be ended are then free at once."""
        if self._renewed_at == float("-inf"):
            return  # no lease was taken, perhaps because its table is missing
        await self._database.run(
            None, lambda session: session.execute(delete(models.Worker).where(models.Worker.id == self.id))
        )

    async def _renew_by_statement(self) -> bool:
        """Renew the lease in one round trip; False when there is none to renew."""
        rows = await self._database.tried(
            lambda _: self._database.statement(RENEW, {"id": self.id}, ahead=True)
        )
        return bool(rows)

    async def _renew(self, session: AsyncSession) -> None:
        renewed = await session.scalar(
            update(models.Worker)
            .where(models.Worker.id == self.id)
            .values(lease_until=lease_end())
            .returning(models.Worker.id)
        )
        if renewed is None:
            await session.execute(delete(models.Worker).where(models.Worker.lease_until < utc_now()))
            # The heartbeat and the first turn may take it at the same moment.
            await session.execute(
                insert_unless_there(session, models.Worker, id=self.id, lease_until=lease_end())
            )

    async def run(self) -> None:
        """Renew the lease while it is needed, until cancelled."""
        await every(
            HEARTBEAT_SECONDS,
            self._beat_while_needed,
            absence=ABSENCE,
        )

    async def _beat_while_needed(self) -> None:
        if time.monotonic() <= self._needed_until:
            await self.beat()
