"""The port to assistants: an agent gets plain values and tools bound to one user, and yields events.

An agent holds no session, and no user id that a model could replace with another. It acts only through `Tools.call`,
and the owner of the data is fixed before the agent is asked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

from msgspec import UNSET, Struct, UnsetType

from chatapi.files.schemas import FileRef


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call with its outcome: `result` (JSON) or `error` (a sentence that the model may act on), never both.

    A call that waits for an answer has neither (`Tools.call`).
    """

    id: str
    name: str
    arguments: dict[str, Any]
    result: Any | UnsetType = UNSET
    error: str | UnsetType = UNSET

    @property
    def waits(self) -> bool:
        return self.result is UNSET and self.error is UNSET


class FileSource(Protocol):
    """Reads the files of one user; raises `FileNotFound` for one that is not there any more."""

    async def read(self, file: FileRef) -> bytes: ...

    async def text(self, file: FileRef) -> str: ...


class File(FileRef, frozen=True, kw_only=True, omit_defaults=True):
    """A file of a message. Its bytes are read when they are asked for, and not kept."""

    source: FileSource | None = None

    async def read(self) -> bytes:
        """The bytes; raises `FileNotFound` if the file was deleted, and `FilesUnavailable`."""
        return await self._source.read(self)

    async def text(self) -> str:
        """The text of a text file or of a PDF; also raises `FileNotSupported` if there is none that can be read."""
        return await self._source.text(self)

    @property
    def _source(self) -> FileSource:
        if self.source is None:
            raise RuntimeError(f"file {self.id} is not bound to where its bytes are")
        return self.source


class HistoryMessage(Struct, frozen=True, kw_only=True):
    """One message of an earlier turn; an assistant's `tool_calls` came before its `content`.

    `provider_state` is the `ProviderState.data` that the agent yielded with this message.
    """

    role: Literal["user", "assistant"]
    content: str
    tool_calls: Sequence[ToolCall] = ()
    provider_state: Any | None = None
    files: Sequence[File] = ()


class SummaryMessage(HistoryMessage, frozen=True, kw_only=True):
    """The first message of a history whose beginning is summed up: a user's, which an assistant's follows.

    An agent that leaves out the oldest turns had better keep these two.
    """


OptionName: TypeAlias = Literal[
    "instructions",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_output_tokens",
    "stop",
    "reasoning_effort",
    "verbosity",
    "json_object",
    "json_schema",
    "tool_choice",
    "parallel_tool_calls",
]
ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity: TypeAlias = Literal["low", "medium", "high"]
# They change no answer, so an agent that cannot pass them on takes them, too.
IDENTIFIERS = ("user", "safety_identifier", "prompt_cache_key")
# These values change nothing, so every agent takes them.
HOLD_ANYWAY: Mapping[str, Any] = MappingProxyType(
    {
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "stop": (),
    }
)


class JSONFormat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer is to be JSON: by this schema (2020-12), or any object if there is none."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class OneTool(Struct, frozen=True):
    """The model is to call this tool first."""

    name: str


class Options(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller of a turn asks of the model; None leaves it to the assistant.

    `instructions` come after the assistant's own. `tool_choice` holds for the first answer of the model only, unless it is
    `none`: or a model that must call a tool would never end. `user`, `safety_identifier` and `prompt_cache_key` are for the
    provider of the model, if its API has the like; they are not the service's user.
    """

    instructions: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    stop: Sequence[str] = ()
    reasoning_effort: ReasoningEffort | None = None
    verbosity: Verbosity | None = None
    json: JSONFormat | None = None
    tool_choice: Literal["auto", "none", "required"] | OneTool | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def named(self) -> Sequence[OptionName]:
        """The options that an agent must take for the answer to be what its caller asks."""
        return [
            option_of(name, value)
            for name, value in self._given()
            if name not in IDENTIFIERS and (name not in HOLD_ANYWAY or value != HOLD_ANYWAY[name])
        ]

    @property
    def identifiers(self) -> Mapping[str, str]:
        """What is for the provider alone, by the names of OpenAI's API."""
        return {name: value for name, value in self._given() if name in IDENTIFIERS}

    def _given(self) -> Iterator[tuple[str, Any]]:
        for name in self.__struct_fields__:
            if (value := getattr(self, name)) is not None and value != ():
                yield name, value


def option_of(name: str, value: Any) -> OptionName:
    if isinstance(value, JSONFormat):
        return "json_object" if value.schema is None else "json_schema"
    return cast("OptionName", name)


NO_OPTIONS = Options()


class Resumed(Struct, frozen=True, kw_only=True):
    """What a turn goes on from when its calls have been answered.

    `state` is what the agent yielded with its `Wait`. `approved` has the ids of the calls that its user has allowed.
    """

    state: Any
    approved: Sequence[str] = ()


class Prompt(Struct, frozen=True, kw_only=True):
    """The message to answer. `history` is whole turns, oldest first: user, assistant, user, assistant, …

    `resumed` is there when the turn has waited and now goes on.
    `begun` is there when the caller keeps the conversation: what the answer has said before its calls, and these with
    their outcomes. `message` may be empty if there are files.
    `own_tools`: the assistant may offer the model tools of its own, beside those of `Tools`.
    """

    user_id: str
    conversation_id: int
    message: str
    history: Sequence[HistoryMessage] = ()
    resumed: Resumed | None = None
    begun: HistoryMessage | None = None
    files: Sequence[File] = ()
    options: Options = NO_OPTIONS
    own_tools: bool = True


class ToolSpec(Struct, frozen=True, kw_only=True):
    """A tool as a model sees it; `parameters` is a JSON Schema (2020-12) of an object.

    `is_callers`: the caller of the turn carries it out. `needs_approval`: the user is asked before each call of it.
    `gives_way`: it is left out where the assistant has a tool of its own with this name.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    is_callers: bool = False
    needs_approval: bool = False
    gives_way: bool = False


Asking: TypeAlias = Literal["approval", "client-tool"]


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
        parameters: dict[str, Any] | None = None,
        may_wait: bool = False,
        asks: Asking | None = None,
    ) -> ToolCall:
        """Run a tool. A mistake in the call comes back as its `error`; a failure of the service is raised.

        With `own` the tool is the agent's: `own` carries the call out and gives a JSON value or raises `ToolError`. It
        may be slow, for no database connection is held. The call is recorded like any other. `parameters` is that
        tool's JSON Schema: nobody is asked to approve a call whose arguments do not hold.

        Some calls need an answer first: those that the operator has approved by their user, those that the caller
        carries out itself, and those for which the agent `asks`, or for which `own` raises `NeedsAnswer`. With
        `may_wait`, such a call comes back without an outcome (`ToolCall.waits`). The agent then makes the other calls
        of the step, yields `Wait` and ends. When the answers are there, it gets `Prompt.resumed`, makes each of these
        calls again with the `id` that came back, and gets its outcome. An agent that cannot do this leaves `may_wait`
        out, and the call is refused.
        """
        ...


class ToolError(Exception):
    """The call cannot be done as asked; the text tells the model why."""


class NeedsAnswer(Exception):
    """The call has come to no outcome, and needs an answer first; raised by an agent's own tool while it is called."""

    def __init__(self, asks: Asking) -> None:
        super().__init__(asks)
        self.asks = asks


class TextDelta(Struct, frozen=True, tag=True):
    """The next piece of the answer."""

    text: str


class ReasoningDelta(Struct, frozen=True, tag=True):
    """The next piece of the model's reasoning: streamed, but not part of the answer."""

    text: str


class TextWasReasoning(Struct, frozen=True, tag=True):
    """The text of this step so far was reasoning, and is not part of the answer.

    Some servers show this only by the `</think>` at its end. Readers already have it as text, and it stays so for them.
    """


class StepStart(Struct, frozen=True):
    """The model is asked once more: its texts and calls from here to the next `StepStart` are one step of the answer.

    Optional: if an agent never yields it, a step begins with the first text after a call.
    """


class Wait(Struct, frozen=True):
    """The turn goes on when its calls are answered, perhaps in another process; `state` (JSON) comes back then."""

    state: Any = None


FinishReason: TypeAlias = Literal["stop", "length", "tool-calls", "content-filter", "error", "other"]


class Finish(Struct, frozen=True):
    """Why the answer ended, in the AI SDK's words; without it the reason is `stop`.

    `length`: the model's limit cut the answer off; the text until then is the answer.
    """

    reason: FinishReason


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens that were used. Cached input is part of the input.

    An agent yields one for the whole turn, or a `ModelUsage` for each answer of a model; a turn's are added up.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


class ModelUsage(Usage, frozen=True, kw_only=True):
    """Tokens of one answer of a model, as its price needs them; 0 and 0 if the server does not count.

    `model` is in the form of `CHAT_MODEL`; None is the agent's own `model`. `base_url` is the address of the API that
    answered. Writing `cache_write_tokens`, which are part of the input, costs more with some providers.
    """

    model: str | None = None
    base_url: str | None = None
    cache_write_tokens: int = 0


class ModelAddress(Struct, frozen=True):
    """A model that an agent may ask, named as in `ModelUsage`."""

    model: str
    base_url: str | None


class ProviderState(Struct, frozen=True, kw_only=True):
    """The model that answered in the end, and what its provider wants back when the conversation goes on.

    `model` is stored as the turn's. `data` is JSON, stored beside the answer; it comes back as
    `HistoryMessage.provider_state`. `left_out` is how many of the first messages of `Prompt.history`, a summary's not counted, the model was not shown
    because it would not take them all: later prompts begin after these, and so begin alike for turns on end. `falls_next` is how
    many, counted likewise, will soon be left out, because the model takes hardly more: these are summed up in time.
    """

    model: str
    data: Any | None = None
    left_out: int = 0
    falls_next: int = 0


AgentEvent: TypeAlias = (
    TextDelta | ReasoningDelta | TextWasReasoning | StepStart | Finish | Usage | ProviderState | Wait
)


class Aside(Struct, frozen=True, kw_only=True):
    """An answer to a question beside a conversation, the model that gave it, and what it has cost."""

    text: str
    model: str
    usage: Usage | None = None


@runtime_checkable
class Asks(Protocol):
    """An agent whose model can be asked something beside a conversation: without tools and history.

    Optional: if an agent has it, its model makes the titles of conversations.
    """

    async def ask(self, instructions: str, message: str) -> Aside:
        """Answer one question. Raises `chatapi.errors.Model…`."""
        ...


@runtime_checkable
class Agent(Protocol):
    """An assistant. One object serves all turns at the same time, so it keeps no state of a turn.

    An agent that is also an asynchronous context manager is entered when the service starts and left when it stops.
    An agent with `models`, a sequence of `ModelAddress`, may ask these; one without is taken to ask its `model`.
    """

    @property
    def model(self) -> str:
        """The model stored with each turn, until a `ProviderState` names the one that answered."""
        ...

    def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        """Answer one message: the texts yielded, joined, are the answer. Raises `chatapi.errors.Model…`.

        A turn that goes on after it has waited is a reply of its own, whose texts follow those from before.
        """
        ...


@runtime_checkable
class TakesFiles(Protocol):
    """What an agent implements, too, if it takes files; without it, messages with files are refused.

    `CHAT_MODEL_INPUT`, where it is set, decides instead.
    """

    async def check_files(self, files: Sequence[File]) -> None:
        """Raise `FileNotSupported` if a message with these files cannot be answered."""
        ...


@runtime_checkable
class TakesOptions(Protocol):
    """What an agent implements, too, if it takes options; without it, a request with options is refused.

    `HOLD_ANYWAY` are taken by all.
    """

    @property
    def options(self) -> Collection[OptionName]:
        """The options that hold for all answers to a prompt that has them."""
        ...
