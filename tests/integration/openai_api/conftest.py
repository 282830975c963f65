"""Clients of OpenAI's API at the service."""

import uuid
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.support.openai_sdk import sdk
from tests.support.serving import Client, serve, settings_for


@pytest.fixture
def user_id() -> str:
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
async def client(service: str, user_id: str) -> AsyncIterator[AsyncOpenAI]:
    async with sdk(service, user_id) as client:
        yield client


@pytest.fixture
async def native(service: str, user_id: str) -> AsyncIterator[Client]:
    """The same user at our own routes."""
    async with Client(service, user_id) as native:
        yield native


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A service for programs from elsewhere."""
    path = tmp_path_factory.mktemp("clients") / "chatapi.db"
    async with serve(settings_for(f"sqlite+aiosqlite:///{path}")) as url:
        yield url
