"""The embedded default assistant: no network, no model, no state.

A message is understood by a table of phrasings (`phrasings`, `understanding`) as `intents`; `assistant` carries these
out through the tools and tells what really came of it. What "it", "the second one" or "yes" refers to is found in the
history it is given (`recollection`, `questions`), for it has no other memory.
"""

from chatapi.offline.assistant import OfflineAgent

__all__ = ["OfflineAgent"]
