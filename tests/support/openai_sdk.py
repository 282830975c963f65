"""OpenAI's own SDK, as a client of the service."""

from typing import Any

from openai import AsyncOpenAI

from tests.support.serving import token_for


def sdk(service: str, user_id: str, **options: Any) -> AsyncOpenAI:
    """A client with the user's token that sends nothing again, unless `options` say otherwise."""
    ours: dict[str, Any] = {"api_key": token_for(user_id), "max_retries": 0, "timeout": 60}
    return AsyncOpenAI(base_url=f"{service}/v1", **ours | options)
