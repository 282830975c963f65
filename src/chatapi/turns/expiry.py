"""Ends turns that have waited for answers for too long, whichever process let them wait."""

from datetime import UTC, datetime

from chatapi.db.schema import Schema
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.turns.loops import Looks
from chatapi.turns.queue import QueueWatch
from chatapi.turns.store import TurnStore
from chatapi.turns.store.rows import Ended

BATCH = 50  # turns that are ended between two looks
LONGEST_PAUSE = 3_600.0  # clocks differ, and a replica that let a turn wait may be gone


class Expiry:
    """One process's look at the open waits: when the next one is over, and as `Looks` says."""

    def __init__(
        self, store: TurnStore, queue: QueueWatch, schema: Schema, patience: Patience, metrics: Metrics
    ) -> None:
        self._store = store
        self._queue = queue
        self._pause = patience.expiry
        self._metrics = metrics
        self._looks = Looks(schema, patience)

    def wake(self, *, at_once: bool) -> None:
        """Look soon: `at_once` when a wait has begun here, else only if the last look was long ago."""
        self._looks.wake(at_once=at_once)

    def ended(self, wait: Ended) -> None:
        self._metrics.wait_seconds.labels(wait.by).observe(wait.seconds)

    async def run(self) -> None:
        """Look until cancelled."""
        await self._looks.run(self._look)

    async def _look(self) -> float | None:
        """End what is to be ended; returns the seconds until the next look, or None if nothing waits."""
        found = await self._store.waits_due(BATCH)
        self._metrics.turns_waiting.set(found.waiting)
        ended = [await self._store.end_wait(each) for each in found.due]
        for wait in ended:
            if wait is not None:
                self.ended(wait)
        if any(ended):
            self._queue.wake(at_once=True)
            return 0.0
        if found.due:  # another process ends them
            return self._pause
        if found.next_at is None:
            return None
        return min(max((found.next_at - datetime.now(UTC)).total_seconds(), 0.05), LONGEST_PAUSE)
