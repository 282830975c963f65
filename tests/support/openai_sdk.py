"""OpenAI's own SDK and other programs made for its API, as clients of the service."""

import json
import uuid
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr

from tests.support import ai_sdk, npm
from tests.support.serving import token_for

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI


class Number(BaseModel):
    """A number."""

    n: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def sdk(service: str, user_id: str, **options: Any) -> AsyncOpenAI:
    """A client with the user's token that sends nothing again, unless `options` say otherwise."""
    ours: dict[str, Any] = {"api_key": token_for(user_id), "max_retries": 0, "timeout": 60}
    return AsyncOpenAI(base_url=f"{service}/v1", **ours | options)


def langchain(service: str, **options: Any) -> "ChatOpenAI":
    """LangChain's client, with the token of a new user."""
    from langchain_openai import ChatOpenAI  # takes seconds

    key = SecretStr(token_for(f"l-{uuid.uuid4().hex}"))
    return ChatOpenAI(base_url=f"{service}/v1", api_key=key, model="commanded", **options)


async def told_in_node(program: str, url: str, folder: Path) -> Any:
    """What a program of the project `tests/ai_sdk` tells of the service at this URL."""
    npm.install(ai_sdk.PROJECT)
    given = json.dumps({"url": url, "token": token_for(f"n-{uuid.uuid4().hex}")})
    path = folder / program
    path.write_text((ai_sdk.PROJECT / program).read_text())
    (folder / "node_modules").symlink_to(ai_sdk.MODULES)
    process = await ai_sdk.node(folder, str(path), given, stdout=PIPE, stderr=PIPE)
    told, trouble = await process.communicate()
    assert process.returncode == 0, trouble.decode()
    return json.loads(told)
