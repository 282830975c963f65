"""The fakes of the providers, and services that talk to them."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatapi.agent import llm
from chatapi.agent.loading import load_agent
from tests.support.providers.server import Providers, serve_providers
from tests.support.serving import Client, serve, settings_for

WIRES = [
    "openai:gpt-5-mini",
    "openai-responses:gpt-5-mini",
    "google:gemini-3-pro",
    "anthropic:claude-test",
]


@pytest.fixture(scope="session", autouse=True)
def _short_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm, "PAUSE_SECONDS", 0.01)
        yield


@pytest.fixture(scope="session")
async def providers() -> AsyncIterator[Providers]:
    async with serve_providers() as running:
        yield running


@pytest.fixture(scope="session", params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('models') / 'chatapi.db'}"


@pytest.fixture(scope="session")
async def wire_service(wire: str, sqlite_url: str, providers: Providers) -> AsyncIterator[str]:
    """The base URL of a service on a model of each format."""
    async with serving(sqlite_url, wire, providers) as url:
        yield url


@pytest.fixture
async def talker(wire_service: str) -> AsyncIterator[Client]:
    async with Client(wire_service, f"user-{uuid.uuid4().hex}") as client:
        yield client


@asynccontextmanager
async def serving(database_url: str, model: str, providers: Providers, **changes: Any) -> AsyncIterator[str]:
    settings = settings_for(database_url, **{"chat_model": model, **providers.settings, **changes})
    async with serve(settings, load_agent(settings)) as url:
        yield url
