"""The marks up to which Anthropic is to cache a request.

https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching: what was cached is looked for at up to 20 blocks before
a mark, a request may have four marks, and what is too short for its model is not cached.
"""

from collections.abc import Sequence
from typing import Any

MARK = {"cache_control": {"type": "ephemeral"}}


def marked(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with a mark at the end of the last two that are not the model's.

    The last is where the next request goes on from this one. The one before it is where the last request ended, however many
    blocks have come since.
    """
    ends = [place for place, each in enumerate(messages) if each["role"] == "user"][-2:]
    return [
        {**each, "content": [*each["content"][:-1], each["content"][-1] | MARK]} if place in ends else each
        for place, each in enumerate(messages)
    ]
