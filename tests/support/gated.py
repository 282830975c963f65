"""The command `chatapi` with long time-outs, and the commanded agent, whose gates are files in the working directory.

A test decides by these gates what the process does, so the speed of the machine does not.
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
    """The service. It drains for long enough that a test can open a gate after SIGTERM."""
    return app.create_app(patience=Patience(drain=120, redis=60))


class File:
    """An event that another process can set: it is set when the file exists."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def wait(self) -> None:
        while not self._path.exists():  # noqa: ASYNC110 - a file gives no notice
            await asyncio.sleep(0.01)


class FileGate(Gate):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.opened = File(Path(f"{name}.open"))  # type: ignore[assignment] # it has the methods that are used


class FileGates(defaultdict[str, Gate]):
    def __missing__(self, name: str) -> Gate:
        self[name] = gate = FileGate(name)
        return gate


class GatedAgent(CommandedAgent):
    gates: ClassVar[defaultdict[str, Gate]] = FileGates()


if __name__ == "__main__":
    cli.main("tests.support.gated:create_app")
