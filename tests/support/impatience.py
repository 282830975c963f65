"""Lets Uvicorn look more often whether something has happened: it looks ten times a second, and most tests start servers."""

import asyncio
from typing import Any

import uvicorn.server


class Impatient:
    """The module `asyncio`, whose `sleep` takes a tenth of the time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


def begin() -> None:
    vars(uvicorn.server)["asyncio"] = Impatient()
