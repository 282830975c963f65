"""Runs that the database may take for running and that nobody runs: they are failed as soon as it answers."""

from chatapi.chat import store
from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE

# How often a run is looked for, twice a second while the database answers: a COMMIT that it was sent before it was away,
# or that waits for its disk, may take effect after its first answer.
LOOKS = 120


class LostRuns:
    """Of this process: as long as that lives, its turns are nobody else's, and would block their conversations.

    What is lost is a begin whose COMMIT may have gone through unheard, and a run whose end could not be written. A run's
    id is made for it alone, so none but the lost one is ever failed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looks_left: dict[str, int] = {}

    def add(self, run_id: str) -> None:
        self._looks_left[run_id] = LOOKS

    async def fail(self) -> None:
        """Fail those that are found, and let go of what is not found for long; raises `DatabaseUnavailable`."""
        if not self._looks_left:
            return
        run_ids = list(self._looks_left)
        found = await self._database.run(EVERYONE, lambda session: store.fail_runs(session, run_ids))
        self._looks_left = {
            run_id: looks - 1
            for run_id, looks in self._looks_left.items()
            if looks > 1 and run_id not in found
        }
