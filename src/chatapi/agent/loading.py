"""From `CHAT_MODEL` to an agent."""

import importlib
import sys
from pathlib import Path

from chatapi.agent.ports import Agent
from chatapi.settings import SettingsError


def load_agent(chat_model: str) -> Agent:
    """`offline`, or the user's own as `module:attribute`: an agent, a class or a factory without arguments.

    The working directory is importable. Raises `SettingsError`.
    """
    if chat_model == "offline":
        # its tables of phrasings are compiled only where they are used
        from chatapi.agent.offline import OfflineAgent  # noqa: PLC0415

        return OfflineAgent()
    module_name, _, attribute = chat_model.partition(":")
    if not attribute:
        raise SettingsError("CHAT_MODEL: is neither offline nor module:attribute")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        # A class has the protocol's members too, so it is told apart by being one.
        agent = found() if isinstance(found, type) or not isinstance(found, Agent) else found
    except Exception as error:
        raise SettingsError(f"CHAT_MODEL: {chat_model} cannot be loaded: {error!r}") from error
    if not isinstance(agent, Agent):
        raise SettingsError(
            f"CHAT_MODEL: {chat_model} is not an agent: it needs model and reply (chatapi.agent.ports)"
        )
    return agent
