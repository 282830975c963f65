"""Ends turns that have waited for answers for too long, whichever process let them wait.

A replica of the version before, which knows no waiting, only marks a waiting turn as cancelled; that is seen here, too.
"""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime

from chatapi.db.failures import is_transient
from chatapi.db.schema import Schema
from chatapi.errors.database import DatabaseUnavailable, SchemaOutdated
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.turns.store import TurnStore
from chatapi.turns.store.rows import Ended

log = logging.getLogger(__name__)

BATCH = 50  # turns that are ended between two looks
LONGEST_PAUSE = 3_600.0  # clocks differ, and a replica that let a turn wait may be gone


class Expiry:
    """One process's look at the open waits.

    It looks when the next one is over, and now and then while turns run here. Otherwise it asks nothing, so that a
    database without work can sleep.
    """

    def __init__(self, store: TurnStore, schema: Schema, patience: Patience, metrics: Metrics) -> None:
        self._store = store
        self._schema = schema
        self._patience = patience
        self._metrics = metrics
        self._woken = asyncio.Event()
        self._looked_at = float("-inf")

    def wake(self, *, at_once: bool) -> None:
        """Look soon: `at_once` when a wait has begun here, else only if the last look was long ago."""
        if at_once or time.monotonic() - self._looked_at > self._patience.expiry:
            self._woken.set()

    def ended(self, wait: Ended) -> None:
        self._metrics.wait_seconds.labels(wait.by).observe(wait.seconds)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                pause = await self._look()
            except (DatabaseUnavailable, SchemaOutdated):
                pause = self._patience.expiry
            except Exception as error:
                if not is_transient(error):
                    log.exception("A defect in the look for turns that have waited for too long")
                pause = self._patience.expiry
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()

    async def _look(self) -> float | None:
        """End what is to be ended; returns the seconds until the next look, or None if nothing waits."""
        self._looked_at = time.monotonic()
        await self._schema.ensure_current()
        found = await self._store.waits_due(BATCH)
        self._metrics.turns_waiting.set(found.waiting)
        ended = [await self._store.end_wait(each) for each in found.due]
        for wait in ended:
            if wait is not None:
                self.ended(wait)
        if any(ended):
            return 0.0
        if found.due:  # another process ends them
            return self._patience.expiry
        if found.next_at is None:
            return None
        return min(max((found.next_at - datetime.now(UTC)).total_seconds(), 0.05), LONGEST_PAUSE)
