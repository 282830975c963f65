"""The input of a response: its items, and what they are to the service.

https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from chatapi.agent.ports import File, FileSource, ToolCall
from chatapi.errors.openai_api import UnsupportedParameter
from chatapi.openai_api.chat_messages import MAX_PARTS, Closed, Id, Name, Text
from chatapi.openai_api.context import Entry, Files, Outcome, Spoken, call_of, from_user, text_of
from chatapi.openai_api.items import Item, JSONObject, output_of
from chatapi.openai_api.parameters import refusal_of
from chatapi.text import path_and_message

MAX_ITEMS = 2_048


class Given(Struct, frozen=True, kw_only=True):
    """The user's word on a call that needs approval."""

    path: str
    request_id: str
    approved: bool
    reason: str | None


class Reference(Struct, frozen=True, kw_only=True):
    """An item of an earlier response, by its id."""

    path: str
    id: str


InputEntry: TypeAlias = Entry | Given | Reference


class Lenient(Struct, frozen=True, kw_only=True):
    """An item of a response that comes back: what else it says does not matter."""


class InputText(Closed, frozen=True, tag_field="type", tag="input_text"):
    text: Text


class InputImage(Closed, frozen=True, tag_field="type", tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["auto"] = "auto"


class InputFile(Closed, frozen=True, tag_field="type", tag="input_file"):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class OutputText(Lenient, frozen=True, tag_field="type", tag="output_text"):
    text: Text


class Refusal(Lenient, frozen=True, tag_field="type", tag="refusal"):
    text: Text = msgspec.field(name="refusal")


UserPart: TypeAlias = InputText | InputImage | InputFile
TextPart: TypeAlias = InputText | OutputText | Refusal


class UserMessage(Closed, frozen=True):
    type: Literal["message"]
    role: Literal["user"]
    content: Text | Annotated[list[UserPart], Meta(min_length=1, max_length=MAX_PARTS)]
    id: str | None = None
    status: str | None = None


class OtherMessage(Lenient, frozen=True):
    """An assistant's, the system's or the developer's."""

    type: Literal["message"]
    role: Literal["assistant", "system", "developer"]
    content: Text | Annotated[list[TextPart], Meta(max_length=MAX_PARTS)]


class FunctionCall(Lenient, frozen=True):
    call_id: Id
    name: Name
    arguments: Text


class FunctionOutput(Closed, frozen=True):
    type: Literal["function_call_output"]
    call_id: Id
    output: Text | Annotated[list[InputText], Meta(max_length=MAX_PARTS)]
    id: str | None = None
    status: str | None = None


class ApprovalResponse(Closed, frozen=True):
    type: Literal["mcp_approval_response"]
    approval_request_id: Id
    approve: bool
    reason: Annotated[str, Meta(max_length=1_000)] | None = None
    id: str | None = None


class OwnCall(Lenient, frozen=True):
    """A call of the service's own tool."""

    id: Id
    name: Name
    arguments: Text
    output: Text | None = None
    error: Any = None


class ItemReference(Closed, frozen=True):
    type: Literal["item_reference"]
    id: Id


# What a model is not told of again: its reasoning, and questions whose answers come as items of their own.
PASSED_OVER = {"reasoning", "mcp_approval_request", "mcp_list_tools"}


def file_in(part: UserPart, path: str, files: Files) -> File | None:
    match part:
        case InputImage():
            url, member, name = part.image_url, "image_url", None
        case InputFile():
            url, member, name = part.file_data, "file_data", part.filename
        case InputText():
            return None
    return files.take(url, f"{path}.{member}", file_id=part.file_id, by_id=f"{path}.file_id", name=name)


def entries_of(
    input_: str | Sequence[JSONObject], hold: Callable[[bytes], FileSource], param: str = "input"
) -> Iterator[InputEntry]:
    """The items of this parameter; raises `Invalid` and `UnsupportedParameter` with the path of what is wrong."""
    if isinstance(input_, str):
        input_ = [{"role": "user", "content": input_}]
    files = Files(hold)
    for place, each in enumerate(input_):
        path = f"{param}[{place}]"
        # Many programs send all members of an item back, null or not.
        item = {name: value for name, value in each.items() if value is not None}
        type_ = item.setdefault("type", "message" if "role" in item else None)
        if type_ in PASSED_OVER:
            continue
        read = READERS.get(type_) if isinstance(type_, str) else None
        if read is None:
            raise UnsupportedParameter(f"{path}.type", f"There are no items of type {type_!r} here.")
        yield from read(item, path, files)


def message(item: JSONObject, path: str, files: Files) -> Iterator[Entry]:
    if item.get("role") != "user":
        other = converted(item, OtherMessage, path)
        yield Spoken(path=path, role=other.role, text=text_of(other.content))
        return
    user = converted(item, UserMessage, path)
    yield from_user(path, user.content, lambda part, path: file_in(part, path, files))


def function_call(item: JSONObject, path: str, _: Files) -> Iterator[Entry]:
    call = converted(item, FunctionCall, path)
    made = call_of(call.call_id, call.name, call.arguments, f"{path}.arguments")
    yield Spoken(path=path, role="assistant", calls=[made])


def function_call_output(item: JSONObject, path: str, _: Files) -> Iterator[Entry]:
    given = converted(item, FunctionOutput, path)
    yield Outcome(path=f"{path}.call_id", call_id=given.call_id, output=text_of(given.output))


def approval_response(item: JSONObject, path: str, _: Files) -> Iterator[InputEntry]:
    given = converted(item, ApprovalResponse, path)
    yield Given(
        path=f"{path}.approval_request_id",
        request_id=given.approval_request_id,
        approved=given.approve,
        reason=given.reason,
    )


def own_call(item: JSONObject, path: str, _: Files) -> Iterator[Entry]:
    call = converted(item, OwnCall, path)
    made = call_of(call.id, call.name, call.arguments, f"{path}.arguments")
    yield Spoken(path=path, role="assistant", calls=[made])
    yield Outcome(path=path, call_id=call.id, output=call.output or str(call.error or "It was not made."))


def reference(item: JSONObject, path: str, _: Files) -> Iterator[InputEntry]:
    yield Reference(path=f"{path}.id", id=converted(item, ItemReference, path).id)


READERS: dict[str, Callable[[JSONObject, str, Files], Iterator[InputEntry]]] = {
    "message": message,
    "function_call": function_call,
    "function_call_output": function_call_output,
    "mcp_approval_response": approval_response,
    "mcp_call": own_call,
    "item_reference": reference,
}


def converted(item: JSONObject, type_: type[Any], path: str) -> Any:
    try:
        return msgspec.convert(item, type_)
    except msgspec.ValidationError as error:
        inner, message = path_and_message(error)
        raise refusal_of(f"{path}.{inner}".rstrip("."), message) from None


def entries_of_item(item: Item, path: str) -> Iterator[Entry]:
    """What an item of an earlier response says, as if its caller had sent it whole."""
    if item.kind == "message" and item.text:
        yield Spoken(path=path, role="assistant", text=item.text)
    if item.call is None or item.kind == "mcp_approval_request":
        return
    call_id = item.call_id if item.kind == "function_call" else item.id
    made = ToolCall(id=call_id, name=item.call.name, arguments=item.call.arguments)
    yield Spoken(path=path, role="assistant", calls=[made])
    if item.kind == "mcp_call":
        error = item.call.error if isinstance(item.call.error, str) else "It was not made."
        yield Outcome(path=path, call_id=call_id, output=output_of(item.call) or error)
