"""The loops for work that a process repeats beside its requests."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from chatapi.db.failures import is_transient
from chatapi.db.schema import Schema
from chatapi.errors.database import DatabaseUnavailable, SchemaOutdated
from chatapi.patience import Patience

log = logging.getLogger(__name__)


async def every(seconds: float, work: Callable[[], Awaitable[object]], *, absence: str) -> None:
    """Repeat `work` until cancelled; while the database is away, log `absence`.

    The loop logs a defect and goes on: otherwise heartbeats and cancels would stop until the process is restarted,
    and nobody would know why.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except DatabaseUnavailable:
            log.warning(absence)
        except Exception:
            log.exception("A defect in %s", work.__qualname__)


class Looks:
    """A look at the database that is repeated when something is due, and now and then while turns run here.

    Otherwise nothing is asked, so that a database without work can sleep.
    """

    def __init__(self, schema: Schema, patience: Patience) -> None:
        self._schema = schema
        self._pause = patience.expiry
        self._woken = asyncio.Event()
        self._looked_at = float("-inf")

    def wake(self, *, at_once: bool) -> None:
        """Look soon: `at_once` when something has changed here, else only if the last look was long ago."""
        if at_once or time.monotonic() - self._looked_at > self._pause:
            self._woken.set()

    async def run(self, look: Callable[[], Awaitable[float | None]]) -> None:
        """Look until cancelled; `look` returns the seconds until the next one, or None for none."""
        while True:
            self._looked_at = time.monotonic()
            try:
                await self._schema.ensure_current()
                pause = await look()
            except (DatabaseUnavailable, SchemaOutdated):
                pause = self._pause
            except Exception as error:
                if not is_transient(error):
                    log.exception("A defect in %s", look.__qualname__)
                pause = self._pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._woken.clear()
