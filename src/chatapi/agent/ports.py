"""The port to whatever answers: an agent is given plain values and tools bound to one user, and yields events.

An agent holds no session and no user id that a model could put in place of another: what it does, it does by
`Tools.call`, and whose data that touches was decided before it was asked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import UNSET, Struct, UnsetType


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call with its outcome: `result` (JSON) or `error` (a sentence that the model may act on), never both."""

    id: str
    name: str
    arguments: dict[str, Any]
    result: Any | UnsetType = UNSET
    error: str | UnsetType = UNSET


class HistoryMessage(Struct, frozen=True, kw_only=True):
    """One message of an earlier turn; an assistant's `tool_calls` happened before its `content` was said.

    `provider_state` is the `ProviderState.data` that the agent yielded when it said this.
    """

    role: Literal["user", "assistant"]
    content: str
    tool_calls: Sequence[ToolCall] = ()
    provider_state: Any | None = None


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

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        call_id: str | None = None,
        own: Callable[[], Awaitable[Any]] | None = None,
    ) -> ToolCall:
        """Run a tool. What is wrong with the call comes back as its `error`; trouble of the service is raised.

        With `own` the tool is the agent's: `own` carries the call out, gives a JSON value or raises `ToolError`, and
        may take its time, for no connection is held; the call is recorded like any other.
        """
        ...


class ToolError(Exception):
    """The call cannot be done as asked; the text tells the model why."""


class TextDelta(Struct, frozen=True, tag=True):
    """The next piece of the answer."""

    text: str


class ReasoningDelta(Struct, frozen=True, tag=True):
    """The next piece of what the model thinks on its way there: streamed, and no part of the answer."""

    text: str


class TextWasReasoning(Struct, frozen=True, tag=True):
    """The text of this step so far was what the model thought, and is no part of the answer.

    Some servers tell only by the `</think>` at its end. It has been streamed as text by then, and stays that for readers.
    """


class StepStart(Struct, frozen=True):
    """The model is asked once more: what it says and calls from here to the next one is one step of the answer.

    Optional: an agent that never yields it has a step begin with the first text after a call.
    """


FinishReason: TypeAlias = Literal["stop", "length", "tool-calls", "content-filter", "error", "other"]


class Finish(Struct, frozen=True):
    """Why the answer ended, in the AI SDK's words; without it the reason is `stop`.

    `length`: the model's limit cut the answer off, and what was said until then is the answer.
    """

    reason: FinishReason


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of the whole turn, all model calls added up. Cached input is part of the input."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


class ProviderState(Struct, frozen=True, kw_only=True):
    """Who answered in the end, stored as the turn's model, and what they want back when the conversation goes on.

    `data` is JSON: it is stored beside the answer and comes back as `HistoryMessage.provider_state`.
    """

    model: str
    data: Any | None = None


AgentEvent: TypeAlias = (
    TextDelta | ReasoningDelta | TextWasReasoning | StepStart | Finish | Usage | ProviderState
)


@runtime_checkable
class Agent(Protocol):
    """An assistant. One object serves all turns at once, so it keeps nothing about any of them.

    If it is an asynchronous context manager, too, it is entered when the service starts and left when it stops.
    """

    @property
    def model(self) -> str:
        """What is stored with each turn as the one who answers, until a `ProviderState` says who did."""
        ...

    def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        """Answer one message: the texts yielded, joined, are the answer. Raises `chatapi.errors.Model…`."""
        ...
