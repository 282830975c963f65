"""Makes an agent from `CHAT_MODEL`."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatapi.agent.ports import Agent, ModelAddress, Prompt
from chatapi.agent.providers import PROVIDERS
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError

OFFLINE = "chatapi.offline:OfflineAgent"
OTHERS = "pydantic-ai"  # CHAT_MODEL=pydantic-ai:bedrock:…, for providers that only pydantic-ai knows


def load_agent(settings: Settings, patience: Patience) -> Agent:
    """`offline`, models of providers, or the user's own as `module:attribute`.

    The attribute is an agent, a pydantic-ai agent, or a class or factory without arguments that makes one; modules in
    the working directory can be imported. Raises `SettingsError`.
    """
    chat_model = settings.chat_model
    prefix, _, name = chat_model.partition(":")
    if chat_model == "offline":
        return own(OFFLINE, settings)
    if "," in chat_model or prefix in PROVIDERS:
        from chatapi.agent.llm import LLMAgent

        return LLMAgent(chat_model, settings=settings, patience=patience)
    if prefix == OTHERS:
        return other(chat_model, name, settings)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return own(chat_model, settings)


def is_bundled(chat_model: str) -> bool:
    """Whether `load_agent` makes an agent of this package alone, and runs nobody else's code."""
    return chat_model == "offline" or "," in chat_model or chat_model.partition(":")[0] in PROVIDERS


def models_of(agent: Agent) -> Sequence[ModelAddress]:
    """The models that an agent may ask; see `ports.Agent`."""
    models: Sequence[ModelAddress] | None = getattr(agent, "models", None)
    return [ModelAddress(agent.model, None)] if models is None else models


def other(chat_model: str, name: str, settings: Settings) -> Agent:
    try:
        from pydantic_ai import Agent as Pydantic

        from chatapi.agent.llm import INSTRUCTIONS
        from chatapi.agent.pydantic_ai import PydanticAgent

        instructions = settings.chat_instructions or INSTRUCTIONS
        return PydanticAgent(
            Pydantic(name, deps_type=Prompt, instructions=instructions), takes=settings.input_kinds
        )
    except ImportError as error:
        raise SettingsError(f'CHAT_MODEL: {chat_model} needs: pip install "chatapi[pydantic-ai]"') from error
    except Exception as error:
        raise SettingsError(f"CHAT_MODEL: {chat_model} cannot be loaded: {error}") from error


def own(chat_model: str, settings: Settings) -> Agent:
    module_name, _, attribute = chat_model.partition(":")
    if not attribute:
        raise SettingsError(
            f"CHAT_MODEL: is neither offline nor provider:model ({', '.join(PROVIDERS)}) nor module:attribute"
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        # A class has the protocol's members too, so test for a class first.
        if callable(found) and (isinstance(found, type) or not is_assistant(found)):
            found = found()
        if is_pydantic_agent(found):
            from chatapi.agent.pydantic_ai import PydanticAgent

            return PydanticAgent(found, takes=settings.input_kinds)
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
    """Compares the names of its classes, so that pydantic-ai need not be imported."""
    return any(
        each.__module__.startswith("pydantic_ai.") and each.__name__ == "AbstractAgent"
        for each in type(found).__mro__
    )
