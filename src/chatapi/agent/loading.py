"""From `CHAT_MODEL` to an agent."""

import importlib
import sys
from pathlib import Path
from typing import Any

from chatapi.agent.ports import Agent
from chatapi.settings import Settings, SettingsError

# What stands before the colon of a model's name, and the extra that brings its provider's SDK.
EXTRAS = {"google": "google", "openai": "openai", "openai-responses": "openai", "anthropic": "anthropic"}


def load_agent(settings: Settings) -> Agent:
    """`offline`, models of providers, or the user's own as `module:attribute`.

    The user's own is an agent, a pydantic-ai agent, or a class or factory without arguments that makes one; the
    working directory is importable. Raises `SettingsError`.
    """
    chat_model = settings.chat_model
    if chat_model == "offline":
        from chatapi.agent.offline import OfflineAgent

        return OfflineAgent()
    if "," in chat_model or chat_model.partition(":")[0] in EXTRAS:
        return models(settings)
    return own(chat_model)


def models(settings: Settings) -> Agent:
    first = settings.chat_model.partition(":")[0]
    try:
        from chatapi.agent.llm import LLMAgent
    except ImportError as error:
        raise extra_missing(settings.chat_model, EXTRAS.get(first, "all")) from error
    return LLMAgent(settings.chat_model, settings=settings)


def extra_missing(chat_model: str, extra: str) -> SettingsError:
    return SettingsError(f'CHAT_MODEL: {chat_model} needs: pip install "chatapi[{extra}]"')


def own(chat_model: str) -> Agent:
    module_name, _, attribute = chat_model.partition(":")
    if not attribute:
        raise SettingsError(
            f"CHAT_MODEL: is neither offline nor provider:model ({', '.join(EXTRAS)}) nor module:attribute"
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        # A class has the protocol's members too, so it is told apart by being one.
        if callable(found) and (isinstance(found, type) or not is_assistant(found)):
            found = found()
        if is_pydantic_agent(found):
            from chatapi.agent.llm import PydanticAgent

            return PydanticAgent(found)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(f"CHAT_MODEL: {chat_model} cannot be loaded: {error!r}") from error
    if not isinstance(found, Agent):
        raise SettingsError(
            f"CHAT_MODEL: {chat_model} is not an agent: it needs model and reply (chatapi.agent.ports)"
        )
    return found


def is_assistant(found: Any) -> bool:
    return isinstance(found, Agent) or is_pydantic_agent(found)


def is_pydantic_agent(found: Any) -> bool:
    """Told by its classes' names, so that nothing of pydantic-ai is imported to find out."""
    return any(
        each.__module__.startswith("pydantic_ai.") and each.__name__ == "AbstractAgent"
        for each in type(found).__mro__
    )
