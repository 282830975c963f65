"""The loop for work that a process repeats beside its requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from chatapi.errors.database import DatabaseUnavailable

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
