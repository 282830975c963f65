"""The messages, tools and formats of a chat completion's body, and what they are to the service."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from chatapi.agent.ports import File, FileSource, JSONFormat
from chatapi.agent.tools import fault_of_schema
from chatapi.errors.requests import Invalid
from chatapi.openai_api.context import Entry, Files, Outcome, Spoken, call_of, from_user, text_of
from chatapi.text import NO_NUL
from chatapi.turns.schemas import ClientTool

MAX_TEXT = 256 * 1024  # characters; front ends put whole documents into a message
MAX_MESSAGES = 2_048
MAX_PARTS = 256
MAX_TOOLS = 128  # OpenAI's own
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}

Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=NO_NUL)]
Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=NO_NUL)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Closed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has no members but these."""


class TextContent(Closed, frozen=True, tag_field="type", tag="text"):
    text: Text


class RefusalContent(Closed, frozen=True, tag_field="type", tag="refusal"):
    text: Text = msgspec.field(name="refusal")


class ImageURL(Closed, frozen=True):
    url: str
    detail: Literal["auto"] = "auto"


class ImageContent(Closed, frozen=True, tag_field="type", tag="image_url"):
    image_url: ImageURL


class FileData(Closed, frozen=True):
    """A file in the request itself, or by its id among those that were uploaded here."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class FileContent(Closed, frozen=True, tag_field="type", tag="file"):
    file: FileData


UserParts: TypeAlias = Annotated[
    list[TextContent | ImageContent | FileContent], Meta(min_length=1, max_length=MAX_PARTS)
]
TextParts: TypeAlias = Annotated[list[TextContent], Meta(min_length=1, max_length=MAX_PARTS)]
AssistantParts: TypeAlias = Annotated[list[TextContent | RefusalContent], Meta(max_length=MAX_PARTS)]


class SystemMessage(Closed, frozen=True, tag_field="role", tag="system"):
    content: Text | TextParts


class DeveloperMessage(Closed, frozen=True, tag_field="role", tag="developer"):
    content: Text | TextParts


class UserMessage(Closed, frozen=True, tag_field="role", tag="user"):
    content: Text | UserParts


class FunctionCall(Closed, frozen=True):
    name: Name
    arguments: Text


class ToolCallMade(Closed, frozen=True):
    """A call as it was sent, in whole or put together from a stream, where it had an `index`."""

    id: Id
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


class AssistantMessage(Closed, frozen=True, tag_field="role", tag="assistant"):
    """An answer as it was sent: many programs send all its members back, null or not."""

    content: Text | AssistantParts | None = None
    tool_calls: Annotated[list[ToolCallMade], Meta(max_length=MAX_TOOLS)] | None = None
    refusal: Text | None = None
    reasoning_content: str | None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Closed, frozen=True, tag_field="role", tag="tool"):
    """`name` repeats the call's; older programs send it."""

    tool_call_id: Id
    content: Text | TextParts
    name: str | None = None


Message: TypeAlias = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionDefinition(Closed, frozen=True):
    """`strict` holds either way: a call whose arguments do not fit goes back to the model."""

    name: Name
    description: Annotated[str, Meta(max_length=1_024)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Closed, frozen=True, tag_field="type", tag="function"):
    function: FunctionDefinition


class OwnTools(Closed, frozen=True, tag_field="type", tag="mcp"):
    """Names the service's own tools."""

    server_label: Literal["chatapi"]


Tool: TypeAlias = FunctionTool | OwnTools


class OneFunction(Closed, frozen=True):
    name: Name


class NamedChoice(Closed, frozen=True, tag_field="type", tag="function"):
    function: OneFunction


class TextFormat(Closed, frozen=True, tag_field="type", tag="text"):
    """The format that holds anyway."""


class AnyJSON(Closed, frozen=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Closed, frozen=True):
    name: Name
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Closed, frozen=True, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema


ResponseFormat: TypeAlias = TextFormat | AnyJSON | SchemaFormat


def file_in(part: TextContent | ImageContent | FileContent, path: str, files: Files) -> File | None:
    match part:
        case ImageContent(image_url=image):
            return files.take(image.url, f"{path}.image_url.url", file_id=None, by_id=path)
        case FileContent(file=file):
            path = f"{path}.file"
            return files.take(
                file.file_data,
                f"{path}.file_data",
                file_id=file.file_id,
                by_id=f"{path}.file_id",
                name=file.filename,
            )
        case TextContent():
            return None


def entries_of(messages: Sequence[Message], hold: Callable[[bytes], FileSource]) -> Iterator[Entry]:
    """The messages in the form that both of OpenAI's have in common; raises `Invalid`."""
    files = Files(hold)
    for place, message in enumerate(messages):
        path = f"messages[{place}]"
        match message:
            case ToolMessage():
                yield Outcome(
                    path=f"{path}.tool_call_id", call_id=message.tool_call_id, output=text_of(message.content)
                )
            case AssistantMessage():
                calls = [
                    call_of(
                        call.id,
                        call.function.name,
                        call.function.arguments,
                        f"{path}.tool_calls[{number}].function.arguments",
                    )
                    for number, call in enumerate(message.tool_calls or [])
                ]
                text = text_of(message.content) or message.refusal or ""
                yield Spoken(path=path, role="assistant", text=text, calls=calls)
            case UserMessage(content=content):
                yield from_user(path, content, lambda part, path: file_in(part, path, files))
            case SystemMessage() | DeveloperMessage():
                yield Spoken(path=path, role="system", text=text_of(message.content))


def client_tools_of(functions: Iterable[tuple[str, FunctionDefinition]]) -> list[ClientTool]:
    """The caller's tools, given with their paths; raises `Invalid` for a name that is there twice, or what is no schema."""
    made: dict[str, ClientTool] = {}
    for path, function in functions:
        if function.name in made:
            raise Invalid((f"{path}.name", f"{function.name} is named twice."))
        parameters = function.parameters or NO_ARGUMENTS
        if (fault := fault_of(msgspec.json.encode(parameters))) is not None:
            raise Invalid((f"{path}.parameters", fault))
        made[function.name] = ClientTool(
            name=function.name, description=function.description or "", parameters=parameters
        )
    return list(made.values())


def functions_in(tools: Sequence[Tool]) -> Iterator[tuple[str, FunctionDefinition]]:
    for place, tool in enumerate(tools):
        if isinstance(tool, FunctionTool):
            yield f"tools[{place}].function", tool.function


@lru_cache(maxsize=1_024)  # front ends send the same tools with each message, and a check takes a millisecond
def fault_of(schema: bytes) -> str | None:
    return fault_of_schema(msgspec.json.decode(schema))


def json_format(wanted: TextFormat | AnyJSON | NamedSchema | None) -> JSONFormat | None:
    match wanted:
        case AnyJSON():
            return JSONFormat()
        case NamedSchema():
            return JSONFormat(
                name=wanted.name,
                description=wanted.description,
                schema=wanted.schema,
                strict=wanted.strict,
            )
    return None


def format_of(wanted: ResponseFormat | None) -> JSONFormat | None:
    if not isinstance(wanted, SchemaFormat):
        return json_format(wanted)
    if wanted.json_schema.schema is None:
        raise Invalid(("response_format.json_schema.schema", "is missing"))
    return json_format(wanted.json_schema)


def names_ours(tools: Sequence[Tool]) -> bool:
    return any(isinstance(tool, OwnTools) for tool in tools)
