"""The commanded agent for a process of its own, whose gates are files in its working directory.

Such a process has patience: what it does, a test decides by its gates, and not the machine by being slow.
"""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

from chatapi import app
from chatapi.limits import redis
from tests.support.agents import CommandedAgent, Gate

app.DRAIN_SECONDS = 120.0  # for a gate that is opened after SIGTERM
redis.REDIS_SECONDS = 60.0


class File:
    """An event of another process: set when the file is there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def wait(self) -> None:
        while not self._path.exists():  # noqa: ASYNC110 - what else would tell
            await asyncio.sleep(0.01)


class FileGate(Gate):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.opened = File(Path(f"{name}.open"))  # type: ignore[assignment] # as much of an event as is needed


class FileGates(defaultdict[str, Gate]):
    def __missing__(self, name: str) -> Gate:
        self[name] = gate = FileGate(name)
        return gate


class GatedAgent(CommandedAgent):
    gates: ClassVar[defaultdict[str, Gate]] = FileGates()
