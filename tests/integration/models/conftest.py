"""The fakes of the providers, and services that talk to them."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from chatapi.agent.loading import load_agent
from chatapi.patience import Patience
from tests.support import run
from tests.support.providers.server import Providers, serve_providers
from tests.support.serving import BRIEF_PAUSES, Client, serve, settings_for

ServiceOn = Callable[[str], Awaitable[str]]

WIRES = [
    "openai:gpt-5-mini",
    "openai-responses:gpt-5-mini",
    "google:gemini-3-pro",
    "anthropic:claude-test",
]


@pytest.fixture(scope="session")
async def providers() -> AsyncIterator[Providers]:
    async with serve_providers() as running:
        yield running


@pytest.fixture(scope="session", params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sqlite_url() -> str:
    return f"sqlite+aiosqlite:///{run.directory('models') / 'chatapi.db'}"


@pytest.fixture(scope="session")
async def service_on(sqlite_url: str, providers: Providers) -> AsyncIterator[ServiceOn]:
    """The base URL of a service on this model, which is started when it is first asked for."""
    urls: dict[str, str] = {}
    async with AsyncExitStack() as running:

        async def started(model: str) -> str:
            if model not in urls:
                urls[model] = await running.enter_async_context(serving(sqlite_url, model, providers))
            return urls[model]

        yield started


@pytest.fixture
async def wire_service(wire: str, service_on: ServiceOn) -> str:
    """The base URL of a service on a model of each format."""
    return await service_on(wire)


@pytest.fixture
async def talker(wire_service: str) -> AsyncIterator[Client]:
    async with Client(wire_service, f"user-{uuid.uuid4().hex}") as client:
        yield client


@asynccontextmanager
async def serving(
    database_url: str, model: str, providers: Providers, patience: Patience = BRIEF_PAUSES, **changes: Any
) -> AsyncIterator[str]:
    settings = settings_for(database_url, **{"chat_model": model, **providers.settings, **changes})
    async with serve(settings, load_agent(settings, patience), patience) as url:
        yield url
