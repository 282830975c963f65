"""A conversation as its caller sends it, in either of OpenAI's forms, as the port to assistants has it: in whole turns.

What the caller sent of an assistant's answer in pieces becomes one: its calls with their outcomes, then its texts. Messages
of one side in a row are put together, since some providers want the sides to take turns.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from chatapi.agent.ports import File, FileSource, HistoryMessage, ToolCall
from chatapi.db.paging import MAX_ID
from chatapi.errors.files import FileKindRefused
from chatapi.errors.requests import Invalid
from chatapi.files.kinds import inspect
from chatapi.files.receiving import tidy_name
from chatapi.turns.sides import joined, opened, paragraphs

FILE_ID = re.compile(r"(?:file[_-])?([0-9]{1,19})", re.ASCII)
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64,", re.ASCII)


class Spoken(Struct, frozen=True, kw_only=True):
    """A message of the caller's; `path` leads to it in the request. `calls` are an assistant's, without outcomes."""

    path: str
    role: str
    text: str = ""
    files: Sequence[File] = ()
    calls: Sequence[ToolCall] = ()


class Outcome(Struct, frozen=True, kw_only=True):
    """What the caller says that a call came to."""

    path: str
    call_id: str
    output: str


Entry: TypeAlias = Spoken | Outcome


class Context(Struct, frozen=True, kw_only=True):
    """The last question with what came before it, and what has been called since for its answer (`begun`)."""

    instructions: str | None
    history: Sequence[HistoryMessage]
    message: str
    files: Sequence[File]
    begun: HistoryMessage | None


def context_of(entries: Sequence[Entry], param: str) -> Context:
    """Read a conversation; raises `Invalid`, with `param` where it is as a whole that something is missing."""
    said = joined(with_outcomes(entries, param))
    last = next((place for place in reversed(range(len(said))) if said[place].role == "user"), None)
    if last is None:
        raise Invalid((param, "There is no message of a user to answer."))
    begun = said[last + 1] if last + 1 < len(said) else None
    if begun is not None and not isinstance(entries[-1], Outcome):
        raise Invalid((param, "The last message is an assistant's; there is nothing to answer."))
    question = said[last]
    return Context(
        instructions=instructions_in(entries),
        history=opened(said[:last]),
        message=question.content,
        files=question.files,
        begun=begun,
    )


def instructions_in(entries: Sequence[object]) -> str | None:
    """What these say as the system or the developer."""
    texts = [
        each.text for each in entries if isinstance(each, Spoken) and each.role in {"system", "developer"}
    ]
    return paragraphs(*texts) or None


def with_outcomes(entries: Sequence[Entry], param: str) -> list[HistoryMessage]:
    """The messages, each call with its outcome; raises `Invalid` for a call without one, or one without a call."""
    said: list[HistoryMessage] = []
    pending: dict[str, ToolCall] = {}
    for entry in entries:
        if isinstance(entry, Outcome):
            if (call := pending.pop(entry.call_id, None)) is None:
                raise no_call(entry)
            done = replace(call, result=entry.output)
            said[-1] = replace(said[-1], tool_calls=[*said[-1].tool_calls, done])
            continue
        if entry.role in {"system", "developer"}:
            continue
        if pending and (entry.role == "user" or not entry.calls):
            raise unanswered(pending, param)
        if entry.role == "user":
            said.append(HistoryMessage(role="user", content=entry.text, files=entry.files))
            continue
        for call in entry.calls:
            if call.id in pending:
                raise Invalid((entry.path, f"The call {call.id!r} is there twice."))
            pending[call.id] = call
        said.append(HistoryMessage(role="assistant", content=entry.text))
    if pending:
        raise unanswered(pending, param)
    return said


def no_call(outcome: Outcome) -> Invalid:
    return Invalid((outcome.path, f"There is no call {outcome.call_id!r} before it that has no outcome yet."))


def unanswered(pending: dict[str, ToolCall], param: str) -> Invalid:
    ids = ", ".join(pending)
    return Invalid((param, f"These calls of tools have no outcome after them: {ids}."))


def from_user(path: str, content: str | Sequence[Any], take: Callable[[Any, str], File | None]) -> Spoken:
    """A user's message; `take` gives the file of a part of its content. Raises `Invalid` for a blank one."""
    parts = () if isinstance(content, str) else content
    taken = [take(part, f"{path}.content[{place}]") for place, part in enumerate(parts)]
    files = [file for file in taken if file is not None]
    text = text_of(content)
    if not text.strip() and not files:
        raise Invalid((f"{path}.content", "must not be blank"))
    return Spoken(path=path, role="user", text=text, files=files)


def text_of(content: str | Sequence[Any] | None) -> str:
    """The text of a message; the texts of several parts are its paragraphs."""
    if content is None or isinstance(content, str):
        return content or ""
    return paragraphs(*(getattr(part, "text", "") for part in content))


class Files:
    """Makes the files of one request. Those in it have a `source` and numbers below 0; the others the ids of stored ones."""

    def __init__(self, hold: Callable[[bytes], FileSource]) -> None:
        self._hold = hold
        self._number = 0

    def take(
        self, url: str | None, path: str, *, file_id: str | None, by_id: str, name: str | None = None
    ) -> File:
        """The file with this id, or else with this data URL; raises `Invalid` with `by_id` or `path`."""
        if file_id is not None:
            return File(id=file_id_of(file_id, by_id), name="", media_type="", size=0)
        if url is None:
            raise Invalid((path, "is missing, and so is `file_id`"))
        self._number -= 1
        return file_of(url, path, number=self._number, hold=self._hold, name=name)


def file_of(
    url: str, path: str, *, number: int, hold: Callable[[bytes], FileSource], name: str | None = None
) -> File:
    """A file that came as a data URL, found out by its bytes as an upload is; raises `Invalid`.

    `number` tells the files of one request apart, and `hold` keeps its bytes for the assistant.
    """
    found = DATA_URL.match(url)
    if found is None:
        raise Invalid((path, "is no data URL with base64: other addresses are not fetched"))
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Invalid((path, "is no valid base64")) from None
    name = tidy_name(name or (found[1] or "file").replace("/", "."))
    try:
        inspected = inspect(BytesIO(data), name)
    except (FileKindRefused, Invalid) as refused:
        raise Invalid((path, refused.detail)) from None
    return File(
        id=number,
        name=name,
        media_type=inspected.media_type,
        size=inspected.size,
        source=hold(data[inspected.start :]),
    )


def file_id_of(file_id: str, path: str) -> int:
    """The id of an uploaded file; raises `Invalid` for what can be none."""
    found = FILE_ID.fullmatch(file_id)
    if found is None or not 0 < int(found[1]) <= MAX_ID:
        raise Invalid((path, "is no id of a file of yours"))
    return int(found[1])


def call_of(call_id: str, name: str, arguments: str, path: str) -> ToolCall:
    """A call as the caller sent it back; raises `Invalid` unless its arguments are a JSON object."""
    try:
        decoded: Any = msgspec.json.decode(arguments) if arguments.strip() else {}
    except msgspec.DecodeError:
        decoded = None
    if not isinstance(decoded, dict):
        raise Invalid((path, "is no JSON object"))
    return ToolCall(id=call_id, name=name, arguments=decoded, result=UNSET)
