"""Finds out once that the database is dead, instead of by each caller's time-out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sqlalchemy.exc import DBAPIError

from chatapi.db.failures import is_transient, unavailable
from chatapi.patience import Patience

log = logging.getLogger(__name__)

FAILURES_TO_ASK = 3  # one lost connection is no outage


class Breaker:
    """A circuit breaker for the database of this process.

    After a few outages in a row it probes the database itself, and opens if it gets no answer: killed connections
    alone are no outage. While it is open, callers are told at once, and it goes on probing, so that no caller pays
    for a probe. The first answer closes it.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[None]], tell: Callable[[float], None], patience: Patience
    ) -> None:
        self.is_open = False
        self._patience = patience
        self._probe = probe
        self._tell = tell  # called with 1 when it opens, and with 0 when it closes
        self._failures = 0
        self._cause: Exception | None = None
        self._probing: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises `DatabaseUnavailable` while open."""
        if self.is_open:
            raise unavailable(self._cause)

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_ASK and self._probing is None:
            self._probing = asyncio.create_task(self._ask_until_answered())

    async def close(self) -> None:
        """Stop asking; for the shutdown."""
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing

    async def _ask_until_answered(self) -> None:
        try:
            while not await self._answers():
                if not self.is_open:
                    log.error(
                        "The database is away; callers are told so until it answers: %s",
                        self._cause.orig if isinstance(self._cause, DBAPIError) else self._cause,
                    )
                    self.is_open = True
                    self._tell(1)
                await asyncio.sleep(self._patience.database_probe_pause)
            if self.is_open:
                log.warning("The database answers again")
        finally:
            self.is_open = False
            self._tell(0)
            self._failures = 0
            self._probing = None

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._patience.database_probe):
                await self._probe()
        except Exception as error:
            self._cause = error
            if not is_transient(error):
                log.exception("The database answers with an error")
            return False
        return True
