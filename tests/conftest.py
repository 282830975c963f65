"""Fixtures: both databases, a service on each, and users who have never been seen before."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres
from tests.support.serving import Client, serve, settings_for


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.prepare()
    yield server
    server.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Makes an empty database and gives its URL; every test that asks for one runs on both kinds."""
    if request.param == "sqlite":
        return lambda: f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('sqlite') / 'chatapi.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return lambda: server.url(server.new_database())


@pytest.fixture(scope="session")
async def database_url(new_database: Callable[[], str]) -> str:
    """The database that most tests share; they keep apart by their users."""
    return await asyncio.to_thread(new_database)


@pytest.fixture
async def empty_database_url(new_database: Callable[[], str]) -> str:
    return await asyncio.to_thread(new_database)


@pytest.fixture(scope="session")
async def service(database_url: str) -> AsyncIterator[str]:
    """The base URL of a service that most tests share."""
    async with serve(settings_for(database_url)) as base_url:
        yield base_url


@pytest.fixture
async def alice(service: str) -> AsyncIterator[Client]:
    async with Client(service, f"alice-{uuid.uuid4().hex}") as client:
        yield client


@pytest.fixture
async def bob(service: str) -> AsyncIterator[Client]:
    async with Client(service, f"bob-{uuid.uuid4().hex}") as client:
        yield client


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty working directory for a process."""
    return tmp_path
