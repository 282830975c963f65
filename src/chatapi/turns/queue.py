"""Begins queued turns that no end of a turn has begun: after a death, a restart, or the end of a wait."""

from collections.abc import Callable

from chatapi.db.schema import Schema
from chatapi.patience import Patience
from chatapi.turns.loops import Looks
from chatapi.turns.store import TurnStore

LONGEST_PAUSE = 3_600.0  # what is queued behind a turn that waits is begun by the process that ends the wait


class QueueWatch:
    """One process's look at everybody's queues: often while something is queued behind turns that run, else as `Looks` says."""

    def __init__(self, store: TurnStore, schema: Schema, patience: Patience) -> None:
        self._store = store
        self._pause = patience.queue
        self._looks = Looks(schema, patience)

    def wake(self, *, at_once: bool) -> None:
        """Look soon: `at_once` when something was queued here or may have been freed, else if the last look was long ago."""
        self._looks.wake(at_once=at_once)

    async def run(self, begin_next: Callable[[str, int], None]) -> None:
        """Look until cancelled. `begin_next` begins the first turn that is queued in a user's conversation."""

        async def look_at_queues() -> float | None:
            found = await self._store.queue_look()
            for user_id, conversation_id in found.stalled:
                begin_next(user_id, conversation_id)
            if found.stalled or found.some_run:
                return self._pause
            return LONGEST_PAUSE if found.some_wait else None

        await self._looks.run(look_at_queues)
