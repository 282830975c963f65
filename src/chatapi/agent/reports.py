"""Asks each model's server about itself and sends a first request, so that operators see trouble before users do."""

import json
from typing import Any

from msgspec import Struct

from chatapi.agent.providers import PROVIDERS, Candidate, candidates
from chatapi.agent.tools import TASK_TOOLS
from chatapi.agent.wire.formats import CallIds, Question
from chatapi.agent.wire.http import ModelClient
from chatapi.agent.wire.speech import Speech
from chatapi.agent.wire.trouble import Trouble
from chatapi.settings import Settings

# The members that give a conversation's limit in tokens: vLLM, OpenRouter, Gemini, Anthropic, llama-server's `meta`.
CONTEXT_MEMBERS = ("max_model_len", "context_length", "inputTokenLimit", "max_input_tokens", "n_ctx")
LISTED = 5  # how many other models' names are shown if the model is not listed
TOKENS = 16  # limit of the test answer; OpenAI accepts none smaller


class ModelReport(Struct, frozen=True, kw_only=True):
    """`trouble` is None if the model answers with our tools; `context` is in tokens, None if unknown."""

    name: str
    trouble: str | None
    context: int | None


async def report_on_models(settings: Settings) -> list[ModelReport]:
    """A report on each provider's model in `CHAT_MODEL`; each gets a short request with our tools."""
    if settings.chat_model.partition(":")[0] not in PROVIDERS:
        return []
    async with ModelClient() as client:
        return [await report_on(each, client) for each in candidates(settings.chat_model, settings)]


async def report_on(candidate: Candidate, client: ModelClient) -> ModelReport:
    try:
        models = await listed(candidate, client)
        known = {names_of(model): model for model in models}
        if known and candidate.model not in known:
            trouble = f"the server does not know it; it has {', '.join(sorted(known)[:LISTED])}"
            return ModelReport(name=candidate.name, trouble=trouble, context=None)
        await answer(candidate, client)
    except Trouble as error:
        return ModelReport(name=candidate.name, trouble=error.words(candidate.secrets, []), context=None)
    context = context_of(known.get(candidate.model, {})) or await slot_of(candidate, client)
    return ModelReport(name=candidate.name, trouble=None, context=context)


async def listed(candidate: Candidate, client: ModelClient) -> list[dict[str, Any]]:
    """The models that the server lists; empty if it has no list."""
    headers = candidate.format.headers
    status, body = await client.get(candidate.base_url + candidate.provider.models, headers)
    value = json_of(body) if status == 200 else None
    models = (value.get("data") or value.get("models")) if isinstance(value, dict) else None
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []


def names_of(model: dict[str, Any]) -> str:
    return str(model.get("id") or model.get("name")).removeprefix("models/")


def context_of(model: dict[str, Any]) -> int | None:
    meta = model.get("meta")
    members = {**(meta if isinstance(meta, dict) else {}), **model}
    return next((members[name] for name in CONTEXT_MEMBERS if isinstance(members.get(name), int)), None)


async def slot_of(candidate: Candidate, client: ModelClient) -> int | None:
    """The context of one llama-server slot, which is the limit of one conversation."""
    if candidate.provider.prefix != "openai" or candidate.base_url == candidate.provider.address:
        return None
    root = candidate.base_url.removesuffix("/v1")
    status, body = await client.get(f"{root}/props", candidate.format.headers)
    value = json_of(body) if status == 200 else None
    settings = value.get("default_generation_settings") if isinstance(value, dict) else None
    return context_of(settings) if isinstance(settings, dict) else None


async def answer(candidate: Candidate, client: ModelClient) -> None:
    """Have the model answer a request with our tools; raises `Trouble`."""
    format_ = candidate.format
    question = Question(
        model=candidate.model,
        instructions="Answer with one word.",
        messages=[format_.user("Say hello.")],
        tools=[tool.spec for tool in TASK_TOOLS],
        max_tokens=TOKENS,
        stream=True,
    )
    reader = format_.reader(Speech())
    async for _ in client.ask(candidate.base_url, format_.request(question), format_, reader):
        pass
    reader.answer(CallIds())


def json_of(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
