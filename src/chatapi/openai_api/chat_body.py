"""The body of a chat completion: its parameters by a table, and what they ask for."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from chatapi.agent.ports import FileSource, OneTool, OptionName, Options, ReasoningEffort, Verbosity
from chatapi.errors.models import OptionNotSupported
from chatapi.errors.openai_api import UnsupportedParameter
from chatapi.errors.requests import Invalid
from chatapi.openai_api.chat_messages import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Closed,
    Message,
    NamedChoice,
    ResponseFormat,
    Tool,
    client_tools_of,
    entries_of,
    format_of,
    functions_in,
    names_ours,
)
from chatapi.openai_api.context import Context, context_of
from chatapi.openai_api.parameters import (
    IDENTIFIERS,
    Body,
    Identifier,
    Parameter,
    passed_on,
    refused,
    supported,
)
from chatapi.turns.schemas import Terms

Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopText = Annotated[str, Meta(min_length=1, max_length=1_000)]


class StreamOptions(Closed, frozen=True):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatBody(Body, frozen=True, kw_only=True):
    """Null is the same as left out."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=4)] | None = None
    reasoning_effort: ReasoningEffort | None = None
    verbosity: Verbosity | None = None
    user: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "model": supported("An id of `GET /v1/models`"),
        "messages": supported(
            "All five roles; texts, pictures and files as data URLs; 2,048 messages, 256 KiB a text"
        ),
        "stream": supported("Decides by itself: `Accept` does not matter"),
        "stream_options": supported("`include_usage`"),
        "store": supported("`true`: the last message is a turn of a conversation"),
        "tools": supported("128 functions of yours; `{type: mcp, server_label: chatapi}` names ours"),
        "tool_choice": passed_on(
            "For the first answer of the model. `allowed_tools` and `custom` are refused"
        ),
        "parallel_tool_calls": passed_on("`true` holds anyway"),
        "response_format": passed_on(),
        "max_completion_tokens": passed_on("At the most `CHAT_MAX_TOKENS`"),
        "max_tokens": passed_on("The older name of `max_completion_tokens`"),
        "temperature": passed_on(),
        "top_p": passed_on(),
        "frequency_penalty": passed_on("0 holds anyway"),
        "presence_penalty": passed_on("0 holds anyway"),
        "seed": passed_on(),
        "stop": passed_on(),
        "reasoning_effort": passed_on(),
        "verbosity": passed_on(),
        "n": refused("There is one answer.", but=[1]),
        "logprobs": refused(but=[False]),
        "top_logprobs": refused(but=[0]),
        "logit_bias": refused(but=[{}]),
        "modalities": refused("Answers are text.", but=[["text"]]),
        "audio": refused("Answers are text."),
        "metadata": refused("Conversations have metadata of their own.", but=[{}]),
        "user": passed_on(IDENTIFIERS["user"]),
        "safety_identifier": passed_on(IDENTIFIERS["safety_identifier"]),
        "service_tier": refused(but=["auto", "default"]),
        "prompt_cache_key": passed_on(IDENTIFIERS["prompt_cache_key"]),
        "prompt_cache_options": refused("Providers cache what a conversation begins with by themselves."),
        "prompt_cache_retention": refused("Providers cache what a conversation begins with by themselves."),
        "prediction": refused(),
        "moderation": refused(),
        "web_search_options": refused("Tools are functions of yours, or ours."),
        "functions": refused("Send them as tools.", but=[[]]),
        "function_call": refused("Send it as tool_choice."),
    }

    def context(self, hold: Callable[[bytes], FileSource]) -> Context:
        """The conversation that is sent; raises `Invalid`."""
        return context_of(list(entries_of(self.messages, hold)), "messages")

    def terms(self, instructions: str | None, *, has_tools: bool) -> Terms:
        """What is asked for beside the messages; raises `Invalid`.

        A request with tools of its own is offered none of ours, unless it names them; nor is one to a model that has none.
        """
        tools = self.tools or []
        client_tools = client_tools_of(functions_in(tools))
        offers_ours = has_tools and (not client_tools or names_ours(tools))
        choice = self.tool_choice
        if isinstance(choice, NamedChoice):
            if choice.function.name not in {tool.name for tool in client_tools}:
                raise Invalid(("tool_choice.function.name", "is no function among `tools`"))
        elif choice == "required" and not tools:
            raise Invalid(("tool_choice", "requires a call, and there are no `tools`"))
        return Terms(
            client_tools=client_tools,
            options=self._options(instructions),
            approvals=False,
            own_tools=None if offers_ours else (),
        )

    def _options(self, instructions: str | None) -> Options:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise Invalid(("max_tokens", "differs from `max_completion_tokens`; send one of them"))
        choice = self.tool_choice
        return Options(
            instructions=instructions,
            temperature=self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=self.seed,
            max_output_tokens=self.max_completion_tokens or self.max_tokens,
            stop=[self.stop] if isinstance(self.stop, str) else tuple(self.stop or ()),
            reasoning_effort=self.reasoning_effort,
            verbosity=self.verbosity,
            json=format_of(self.response_format),
            tool_choice=OneTool(choice.function.name) if isinstance(choice, NamedChoice) else choice,
            parallel_tool_calls=self.parallel_tool_calls,
            user=self.user,
            safety_identifier=self.safety_identifier,
            prompt_cache_key=self.prompt_cache_key,
        )

    def refusal_of(self, error: OptionNotSupported) -> UnsupportedParameter:
        """The error in the words of this body."""
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        names: dict[OptionName, str] = {
            "instructions": "messages",
            "max_output_tokens": limit,
            "json_object": "response_format",
            "json_schema": "response_format",
        }
        option: Any = error.members["option"]
        return UnsupportedParameter(names.get(option, option), error.detail)
