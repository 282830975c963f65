"""The command `chatapi` with patience, and the commanded agent with files in the working directory for gates.

What such a process does, a test decides by its gates, and not the machine by being slow.
"""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

from litestar import Litestar

from chatapi import app, cli
from chatapi.patience import Patience
from tests.support.agents import CommandedAgent, Gate


def create_app() -> Litestar:
    """The service; it drains for a gate that is opened after SIGTERM."""
    return app.create_app(patience=Patience(drain=120, redis=60))


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


if __name__ == "__main__":
    cli.main("tests.support.gated:create_app")
