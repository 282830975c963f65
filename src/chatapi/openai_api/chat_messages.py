"""The messages, tools and formats of a chat completion's body, and what they are to the service."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from chatapi.agent.ports import File, FileSource, JSONFormat
from chatapi.agent.tools import fault_of_schema
from chatapi.errors.requests import Invalid
from chatapi.openai_api.context import Entry, Outcome, Spoken, call_of, file_id_of, file_of
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
    refusal: Text


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


class Files:
    """Takes the files out of messages: `ids` are of stored ones, and the others have a `source` and numbers below 0."""

    def __init__(self, hold: Callable[[bytes], FileSource]) -> None:
        self._hold = hold
        self._number = 0

    def take(self, part: ImageContent | FileContent, path: str) -> File:
        self._number -= 1
        if isinstance(part, ImageContent):
            return file_of(part.image_url.url, f"{path}.image_url.url", number=self._number, hold=self._hold)
        if part.file.file_id is not None:
            return File(
                id=file_id_of(part.file.file_id, f"{path}.file.file_id"), name="", media_type="", size=0
            )
        if part.file.file_data is None:
            raise Invalid((f"{path}.file.file_data", "is missing, and so is `file_id`"))
        return file_of(
            part.file.file_data,
            f"{path}.file.file_data",
            number=self._number,
            hold=self._hold,
            name=part.file.filename,
        )


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
                parts = [] if isinstance(content, str) else content
                attached = [
                    files.take(part, f"{path}.content[{number}]")
                    for number, part in enumerate(parts)
                    if not isinstance(part, TextContent)
                ]
                text = text_of(content)
                if not text.strip() and not attached:
                    raise Invalid((f"{path}.content", "must not be blank"))
                yield Spoken(path=path, role="user", text=text, files=attached)
            case SystemMessage() | DeveloperMessage():
                yield Spoken(path=path, role="system", text=text_of(message.content))


def text_of(content: str | Sequence[Any] | None) -> str:
    """The text of a message; several texts are its paragraphs."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = [
        part.refusal if isinstance(part, RefusalContent) else part.text
        for part in content
        if isinstance(part, TextContent | RefusalContent)
    ]
    return "\n\n".join(filter(None, texts))


def client_tools_of(tools: Sequence[Tool]) -> list[ClientTool]:
    """The caller's tools; raises `Invalid` for a name that is there twice, or what is no schema."""
    made: list[ClientTool] = []
    names: set[str] = set()
    for place, tool in enumerate(tools):
        if isinstance(tool, OwnTools):
            continue
        path, function = f"tools[{place}].function", tool.function
        if function.name in names:
            raise Invalid((f"{path}.name", f"{function.name} is named twice."))
        names.add(function.name)
        parameters = function.parameters or NO_ARGUMENTS
        if (fault := fault_of(msgspec.json.encode(parameters))) is not None:
            raise Invalid((f"{path}.parameters", fault))
        made.append(
            ClientTool(name=function.name, description=function.description or "", parameters=parameters)
        )
    return made


@lru_cache(maxsize=1_024)  # front ends send the same tools with each message, and a check takes a millisecond
def fault_of(schema: bytes) -> str | None:
    return fault_of_schema(msgspec.json.decode(schema))


def json_format(wanted: ResponseFormat | None) -> JSONFormat | None:
    match wanted:
        case AnyJSON():
            return JSONFormat()
        case SchemaFormat(json_schema=named):
            if named.schema is None:
                raise Invalid(("response_format.json_schema.schema", "is missing"))
            return JSONFormat(
                name=named.name, description=named.description, schema=named.schema, strict=named.strict
            )
    return None


def names_ours(tools: Sequence[Tool]) -> bool:
    return any(isinstance(tool, OwnTools) for tool in tools)
