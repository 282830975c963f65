"""The port to whatever answers: an agent is given plain values and tools bound to one user, and yields events.

An agent holds no session and no user id that a model could put in place of another: what it does, it does by
`Tools.call`, and whose data that touches was decided before it was asked.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from chatapi.conversations.schemas import ToolCall

__all__ = [
    "Agent",
    "AgentEvent",
    "HistoryMessage",
    "Prompt",
    "TextDelta",
    "ToolCall",
    "ToolSpec",
    "Tools",
    "Usage",
]


class HistoryMessage(Struct, frozen=True, kw_only=True):
    """One message of an earlier turn; an assistant's `tool_calls` happened before its `content` was said."""

    role: Literal["user", "assistant"]
    content: str
    tool_calls: Sequence[ToolCall] = ()


class Prompt(Struct, frozen=True, kw_only=True):
    """What is to be answered. `history` is whole turns, oldest first: user, assistant, user, assistant, …"""

    user_id: str
    conversation_id: int
    message: str
    history: Sequence[HistoryMessage] = ()


class ToolSpec(Struct, frozen=True, kw_only=True):
    """A tool as a model is told of it; `parameters` is a JSON Schema (2020-12) of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class Tools(Protocol):
    """The tools of one turn, bound to its user."""

    @property
    def specs(self) -> Sequence[ToolSpec]: ...

    async def call(self, name: str, arguments: dict[str, Any], *, call_id: str | None = None) -> ToolCall:
        """Run a tool. What is wrong with the call comes back as its `error`; trouble of the service is raised."""
        ...


class TextDelta(Struct, frozen=True):
    """The next piece of the answer."""

    text: str


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of the whole turn, all model calls added up."""

    input_tokens: int
    output_tokens: int


AgentEvent: TypeAlias = TextDelta | Usage


@runtime_checkable
class Agent(Protocol):
    """An assistant. One object serves all turns at once, so it keeps nothing about any of them."""

    @property
    def model(self) -> str:
        """What is stored with each turn as the one who answered."""
        ...

    def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        """Answer one message: the texts yielded, joined, are the answer. Raises `chatapi.errors.Model…`."""
        ...
