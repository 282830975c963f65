"""The body that asks for a response, and the terms that it sets for the turn."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from chatapi.agent.ports import OneTool, OptionName, Options, ReasoningEffort, Verbosity
from chatapi.errors.models import OptionNotSupported
from chatapi.errors.openai_api import UnsupportedParameter
from chatapi.errors.requests import Invalid
from chatapi.openai_api.chat_messages import (
    MAX_TOOLS,
    AnyJSON,
    Closed,
    FunctionDefinition,
    Name,
    NamedSchema,
    Text,
    TextFormat,
    client_tools_of,
    json_format,
)
from chatapi.openai_api.items import JSONObject
from chatapi.openai_api.models import Served
from chatapi.openai_api.parameters import (
    IDENTIFIERS,
    Body,
    Identifier,
    Parameter,
    passed_on,
    refused,
    supported,
)
from chatapi.openai_api.response_input import MAX_ITEMS
from chatapi.turns.schemas import Asked, ClientTool

CACHES = "Providers cache what a conversation begins with by themselves."
Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class NamedConversation(Closed, frozen=True):
    id: str


class ResponseReasoning(Closed, frozen=True):
    """Reasoning is shown where the model's API tells it, whatever summary is asked for."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseSchema(NamedSchema, frozen=True, tag_field="type", tag="json_schema"):
    schema: dict[str, Any]


class ResponseText(Closed, frozen=True):
    format: TextFormat | AnyJSON | ResponseSchema | None = None
    verbosity: Verbosity | None = None


class ResponseFunction(FunctionDefinition, frozen=True, tag_field="type", tag="function"):
    """A tool of the caller's."""


class ToolNames(Closed, frozen=True):
    tool_names: list[str]


class ResponseOwnTools(Closed, frozen=True, tag_field="type", tag="mcp"):
    """The service's own tools, or some of them. Which of their calls need approval is the operator's to say."""

    server_label: Literal["chatapi"]
    allowed_tools: list[str] | ToolNames | None = None


class ChosenFunction(Closed, frozen=True, tag_field="type", tag="function"):
    name: Name


class ChosenOwnTool(Closed, frozen=True, tag_field="type", tag="mcp"):
    server_label: Literal["chatapi"]
    name: Name


class ResponseStreamOptions(Closed, frozen=True):
    include_obfuscation: Literal[False] | None = None


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | ChosenFunction | ChosenOwnTool


class ResponseBody(Body, frozen=True):
    """https://platform.openai.com/docs/api-reference/responses/create"""

    input: Text | Annotated[list[dict[str, Any]], Meta(max_length=MAX_ITEMS)]
    model: str | None = None
    instructions: Text | None = None
    previous_response_id: str | None = None
    conversation: str | NamedConversation | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    tools: Annotated[list[ResponseFunction | ResponseOwnTools], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    reasoning: ResponseReasoning | None = None
    text: ResponseText | None = None
    user: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "access_programs": refused(),
        "background": supported("The answer comes at once; follow it with `GET /v1/responses/{id}`."),
        "background_options": refused(),
        "context_management": refused(
            "What the model is shown of a long conversation is the operator's to say."
        ),
        "conversation": supported("Its id, or an object with that."),
        "image": refused(),
        "include": supported("Only `reasoning.encrypted_content`, and only with `store: false`."),
        "input": supported("Text or a list of items, see above."),
        "instructions": passed_on("They come after the assistant's own."),
        "max_output_tokens": passed_on("At the most what `CHAT_MAX_TOKENS` allows."),
        "max_tool_calls": refused("A turn asks its model ten times at the most."),
        "metadata": supported("It comes back in the response."),
        "model": supported("An id of `GET /v1/models`; the first if there is none."),
        "moderation": refused(),
        "parallel_tool_calls": passed_on(),
        "previous_response_id": supported(
            "The conversation's last response; an older one is 409 `turn_superseded`."
        ),
        "prompt": refused("There are no stored prompts."),
        "prompt_cache_key": passed_on(IDENTIFIERS["prompt_cache_key"] + "."),
        "prompt_cache_options": refused(CACHES),
        "prompt_cache_retention": refused(CACHES),
        "reasoning": passed_on(
            "`effort`; `summary` changes nothing: reasoning is shown where the model's API tells it."
        ),
        "safety_identifier": passed_on(IDENTIFIERS["safety_identifier"] + "."),
        "service_tier": refused("There is one.", but=["auto", "default"]),
        "store": supported("`false`: the response is no turn, and nothing of it is stored."),
        "stream": supported("What it says decides, not `Accept`."),
        "stream_options": supported("Only `include_obfuscation: false`, which is how it is."),
        "temperature": passed_on(),
        "text": passed_on("`format` and `verbosity`."),
        "tool_choice": passed_on("For the first answer of the model, unless it is `none`."),
        "tools": supported('Functions of yours; `mcp` with `server_label: "chatapi"` names ours.'),
        "top_logprobs": refused(but=[0]),
        "top_p": passed_on(),
        "truncation": refused(but=["disabled"]),
        "user": passed_on(IDENTIFIERS["user"] + "."),
    }

    def refusal_of(self, error: OptionNotSupported) -> UnsupportedParameter:
        """The error in the words of this body."""
        names: dict[OptionName, str] = {
            "instructions": "instructions",
            "reasoning_effort": "reasoning.effort",
            "verbosity": "text.verbosity",
            "json_object": "text.format",
            "json_schema": "text.format",
        }
        option: Any = error.members["option"]
        return UnsupportedParameter(names.get(option, option), error.detail)


SHOWN = (
    *("instructions", "metadata", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens"),
    *("temperature", "top_p", "background", "previous_response_id"),
    *("user", "safety_identifier", "prompt_cache_key"),
)


def shown_of(body: ResponseBody, model: Served) -> JSONObject:
    """What the response repeats of its request; what a request leaves out is not stored."""
    given = {name: value for name in SHOWN if (value := getattr(body, name)) is not None}
    if body.reasoning is not None:
        given["reasoning"] = {"effort": body.reasoning.effort, "summary": body.reasoning.summary}
    if body.text is not None:
        format_ = body.text.format or TextFormat()
        verbosity = {} if body.text.verbosity is None else {"verbosity": body.text.verbosity}
        given["text"] = {"format": format_, **verbosity}
    if body.conversation is not None:
        given["conversation"] = True
    shown: JSONObject = msgspec.to_builtins({"model": model.id, **given})
    return shown


def asked_of(body: ResponseBody, model: Served, instructions: str | None) -> Asked:
    """The terms of the turn; `instructions` are what its input says of them. Raises `Invalid`."""
    text = body.text or ResponseText()
    options = Options(
        instructions="\n\n".join(filter(None, (body.instructions, instructions))) or None,
        temperature=body.temperature,
        top_p=body.top_p,
        max_output_tokens=body.max_output_tokens,
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        verbosity=text.verbosity,
        json=json_format(text.format),
        tool_choice=OneTool(body.tool_choice.name)
        if isinstance(body.tool_choice, ChosenFunction | ChosenOwnTool)
        else body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
    )
    return Asked(
        options=options,
        own_tools=own_tools_of(body.tools or (), model),
        shown=shown_of(body, model),
    )


def check(body: ResponseBody) -> None:
    """Raise `Invalid` for parameters that do not go together."""
    if body.include and not (body.store is False and body.include == ["reasoning.encrypted_content"]):
        raise Invalid(
            ("include", "Only `reasoning.encrypted_content` can be asked for, with `store: false`.")
        )
    if body.store is False:
        for name in ("background", "previous_response_id", "conversation"):
            if getattr(body, name):
                raise Invalid((name, "is of no use with `store: false`: nothing is stored"))


def own_tools_of(tools: Sequence[ResponseFunction | ResponseOwnTools], model: Served) -> Sequence[str] | None:
    """The names of those of our tools that the model is told of; None is all."""
    if not model.tools:
        return ()
    named: list[str] = []
    is_restricted = False
    for tool in tools:
        if isinstance(tool, ResponseOwnTools) and tool.allowed_tools is not None:
            is_restricted = True
            allowed = tool.allowed_tools
            named += allowed.tool_names if isinstance(allowed, ToolNames) else allowed
    return named if is_restricted else None


def client_tools_in(body: ResponseBody) -> list[ClientTool]:
    """The caller's tools; raises `Invalid`."""
    return client_tools_of(
        (f"tools[{place}]", tool)
        for place, tool in enumerate(body.tools or ())
        if isinstance(tool, ResponseFunction)
    )
