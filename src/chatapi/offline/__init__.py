"""The embedded default assistant: no network, no model, no state.

A table of phrasings turns a message into `intents` (`phrasings`, `understanding`). `assistant` carries these out
through the tools and reports the real outcome. The history it is given is its only memory: `recollection` and
`questions` find there what "it", "the second one" or "yes" refers to.
"""

from chatapi.offline.assistant import OfflineAgent

__all__ = ["OfflineAgent"]
