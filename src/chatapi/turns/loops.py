"""What a process does again and again beside its requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from chatapi.errors.database import DatabaseUnavailable

log = logging.getLogger(__name__)


async def every(seconds: float, work: Callable[[], Awaitable[object]], *, absence: str) -> None:
    """Do it until cancelled; `absence` is what the log says of a time when the database is away.

    A defect is logged and outlived, too: ended by one, a heartbeat or a look for cancels would be missed until the
    process is restarted, and nobody would know why.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except DatabaseUnavailable:
            log.warning(absence)
        except Exception:
            log.exception("A defect in %s", work.__qualname__)
