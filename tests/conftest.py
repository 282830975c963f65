"""Fixtures: both databases, a service on each, and users who have never been seen before."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from pytest_asyncio.plugin import PytestAsyncioFunction

from chatapi.cli import settle
from chatapi.db.schema import upgrade
from tests.support import citus_watch, impatience, run
from tests.support.citus import Citus
from tests.support.postgres import Postgres
from tests.support.serving import SLOW_MACHINE, Client, serve, settings_for
from tests.support.waiting import end, where_tasks_wait


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that starts the others
        run.begin()
    citus_watch.begin()
    impatience.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        Postgres.close_of_run()
        run.end()


def pytest_collection_finish() -> None:
    """Exclude all modules from garbage collection, as `chatapi run` does."""
    settle()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a test that runs out of time report what it waited for, and end what it began, because it is a task like others."""
    try:
        return (yield)
    except pytest.fail.Exception as failure:
        if isinstance(pyfuncitem, PytestAsyncioFunction) and "Timeout" in str(failure):
            loop: Any = pyfuncitem.funcargs["loop"]
            failure.add_note(where_tasks_wait(loop))
            end(pyfuncitem.originalname, loop)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Fail a test in which the service sent what would not do on Citus (CONTRIBUTING.md, "The rules of the house")."""
    try:
        return (yield)
    finally:
        if (told := citus_watch.told()) is not None:
            pytest.fail(f"On Citus this would be refused, or sent to all machines:\n{told}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
async def loop() -> asyncio.AbstractEventLoop:
    """The loop that all tests run on. (`asyncio.run` in a test that is no coroutine leaves no current loop.)"""
    return asyncio.get_running_loop()


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """The server of the run. A test that stops its server, or counts what happens in it, makes its own."""
    return Postgres.of_run()


@pytest.fixture(scope="session")
def migrated_file() -> Path:
    """A SQLite file to make others from."""
    file = run.directory("sqlite") / "chatapi.db"
    upgrade(settings_for(f"sqlite:///{file}"), SLOW_MACHINE)
    return file


@pytest.fixture(scope="session", params=["citus"] if Citus.of_environment() else ["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Makes a database without rows, and with `migrated=False` without tables, and returns its URL.

    Every test that asks for one runs on both kinds, or on Citus alone where there is one.
    """
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return lambda **options: server.url(server.new_database(**options))
    if request.param == "citus" and (citus := Citus.of_environment()):
        return lambda **options: citus.url(citus.new_database(**options))
    migrated_file: Path = request.getfixturevalue("migrated_file")

    def new_file(*, migrated: bool = True) -> str:
        file = run.directory("sqlite") / "chatapi.db"
        if migrated:
            shutil.copy(migrated_file, file)
        return f"sqlite+aiosqlite:///{file}"

    return new_file


@pytest.fixture(scope="session")
async def database_url(new_database: Callable[[], str]) -> str:
    """The database that most tests share. Each test has its own users there."""
    return await asyncio.to_thread(new_database)


@pytest.fixture
async def empty_database_url(new_database: Callable[[], str]) -> AsyncIterator[str]:
    """The URL of a database with empty tables."""
    url = await asyncio.to_thread(new_database)
    yield url
    if citus := Citus.of_environment():
        await asyncio.to_thread(citus.drop, url.rpartition("/")[2])


@pytest.fixture
async def bare_database_url(new_database: Callable[..., str]) -> str:
    """The URL of a database without tables."""
    return await asyncio.to_thread(new_database, migrated=False)


@pytest.fixture(scope="session")
async def service(database_url: str) -> AsyncIterator[str]:
    """The base URL of the service that most tests share."""
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
