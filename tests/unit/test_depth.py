"""How many frames a turn needs from its task down to the driver: a reader follows it frame by frame."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import chatapi
from chatapi.db import autocommit
from chatapi.db.autocommit import Statement
from chatapi.tracing import Tracing
from tests.support.serving import Client, serve, settings_for, takes_statements

DEEPEST = 10  # frames of ours, from the turn's task down to the call of asyncpg
PACKAGE = str(Path(chatapi.__file__).parent)


@pytest.fixture
def depths(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our functions on the stack at each statement that is a transaction by itself."""
    found: list[list[str]] = []
    run: Callable[..., Any] = autocommit.run

    async def noted(
        engine: AsyncEngine, opening: str | None, tracing: Tracing, statement: Statement, values: Any
    ) -> Any:
        ours = [frame.function for frame in inspect.stack() if frame.filename.startswith(PACKAGE)]
        found.append([run.__name__, *ours])
        return await run(engine, opening, tracing, statement, values)

    monkeypatch.setattr(autocommit, "run", noted)
    return found


async def test_of_a_begin_and_of_a_finish_is_at_most_ten(
    depths: list[list[str]], new_database: Callable[[], str]
) -> None:
    url = await asyncio.to_thread(new_database)
    if not takes_statements(url):
        pytest.skip("SQLite's and Citus's are transactions of several statements")
    async with serve(settings_for(url)) as base_url, Client(base_url, "alice") as alice:
        await alice.said("say Hello.")
    begin, finish = (each for each in depths if {"begin", "finish"} & set(each))
    assert len(begin) <= DEEPEST, begin
    assert len(finish) <= DEEPEST, finish
