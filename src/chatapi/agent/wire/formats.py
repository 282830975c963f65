"""The interface of a wire format: how it writes a request and reads an answer.

A conversation goes to a server as a list of the format's own messages (JSON objects). Messages that the server itself
wrote are stored and go back unchanged; all others go in a plain form, which the format makes from text and calls.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Struct

from chatapi.agent.inputs import Attached
from chatapi.agent.ports import (
    NO_OPTIONS,
    FinishReason,
    JSONFormat,
    ModelUsage,
    OptionName,
    Options,
    ToolCall,
    ToolSpec,
)
from chatapi.agent.wire.speech import Said, Speech, mended
from chatapi.agent.wire.trouble import Trouble, told_in_stream

JSONObject: TypeAlias = dict[str, Any]
T = TypeVar("T")

# The answer of a turn that was cancelled or cut off before its first word: APIs refuse empty answers and two questions in a row.
INTERRUPTED = "(I was interrupted.)"
NO_OBJECT = "The arguments are not a JSON object. Make the call again with valid JSON."
ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# Letters and digits, exactly: Mistral's templates require it, and every other server accepts it.
ID_LENGTH = 9


class Call(Struct, frozen=True, kw_only=True):
    """A call that a model asks for. `arguments` is None if they are not a JSON object.

    `id` is the provider's if it is unique within the conversation as sent, else ours.
    """

    id: str
    name: str
    arguments: JSONObject | None


class Answer(Struct, frozen=True, kw_only=True):
    """One whole answer of a model. `messages` are in the server's own format, as they go back to it."""

    text: str
    calls: Sequence[Call]
    reason: FinishReason
    messages: Sequence[JSONObject]


class Question(Struct, frozen=True, kw_only=True):
    """The input of one request to a model, in the format's own messages.

    `instructions` and `max_tokens` have taken in what `options` say of them. Nothing that changes from one question of a
    conversation to the next comes before its messages, and `tools` are sorted, so that providers find it in their caches.
    `cache_key` is the same for all questions of a conversation; None if no other will follow this one.
    """

    model: str
    instructions: str
    messages: Sequence[JSONObject]
    tools: Sequence[ToolSpec]
    max_tokens: int | None
    stream: bool
    options: Options = NO_OPTIONS
    cache_key: str | None = None


class Request(Struct, frozen=True, kw_only=True):
    """`path` follows the provider's base URL; `headers` are the format's, including the key's."""

    path: str
    headers: Mapping[str, str]
    body: JSONObject


def changed(request: Request, body: JSONObject) -> Request | None:
    """The request with another body; None if it is the same, so that no request is sent twice."""
    return None if body == request.body else Request(path=request.path, headers=request.headers, body=body)


class Reader(Protocol):
    """Reads one answer.

    `began`: a piece of it has arrived. `is_whole`: the format's end marker has arrived; a stream that ends without it
    has broken off. `is_over`: nothing more will come.
    """

    @property
    def began(self) -> bool: ...

    @property
    def is_whole(self) -> bool: ...

    @property
    def is_over(self) -> bool: ...

    @property
    def usage(self) -> ModelUsage | None:
        """The tokens that the server has told of so far, also of an answer that breaks off."""
        ...

    def event(self, data: bytes) -> Iterator[Said]:
        """The `data` of one event of the stream; raises `Trouble`."""
        ...

    def whole(self, body: bytes) -> Iterator[Said]:
        """The body of an answer that was not streamed; raises `Trouble`."""
        ...

    def answer(self, ids: "CallIds", /) -> Answer:
        """The answer, once it has been read to its end; raises `Trouble` if it is not usable."""
        ...


class Format(Protocol):
    """One API. An object serves one model at one address; `headers`, with the key, go with every request.

    `options` are those that the API has.
    """

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def options(self) -> frozenset[OptionName]: ...

    def request(self, question: Question) -> Request: ...

    def reader(self, speech: Speech) -> Reader: ...

    def user(self, text: str, files: Sequence[Attached] = ()) -> JSONObject:
        """A user's message: the files, of media types that the model takes, and then the text, unless it is empty."""
        ...

    def said(self, text: str) -> JSONObject:
        """An assistant's message of text alone."""
        ...

    def called(self, calls: Sequence[Call], text: str = "") -> Sequence[JSONObject]:
        """An assistant's message or messages that say the text and ask for the calls, in the plain form."""
        ...

    def results(self, results: Sequence[tuple[Call, ToolCall]]) -> Sequence[JSONObject]:
        """The outcomes of all calls of one answer."""
        ...

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Trouble: ...

    def adapt(self, request: Request, trouble: Trouble, /) -> Request | None:
        """The request to send in place of one that was refused, where the refusal says how it must differ; else None.

        What holds for all requests is kept: later ones are written so from the start.
        """
        ...


def given(**members: Any) -> JSONObject:
    """The members of a request that have a value."""
    return {name: value for name, value in members.items() if value is not None}


def schema_of(wanted: JSONFormat) -> JSONObject:
    """The schema of the answer, as both of OpenAI's APIs write it."""
    return given(
        name=wanted.name or "answer",
        description=wanted.description,
        schema=wanted.schema,
        strict=wanted.strict,
    )


def data_url(file: Attached) -> str:
    return f"data:{file.media_type};base64,{base64_of(file)}"


def base64_of(file: Attached) -> str:
    return b64encode(file.data).decode()


class CallIds:
    """Call ids for one conversation as it is sent: each is nine letters and digits, and is given once.

    An id is derived from its input, so the same history makes the same messages, which providers can cache.
    """

    def __init__(self) -> None:
        self._given: set[str] = set()

    def take(self, id_: str) -> bool:
        """Whether an id may be kept: it is not empty, and no earlier call has it. If so, it is taken."""
        if not id_ or id_ in self._given:
            return False
        self._given.add(id_)
        return True

    def note(self, messages: Iterable[JSONObject]) -> None:
        """Mark as taken the ids in messages that a server wrote."""
        for message in messages:
            content = message.get("content")
            blocks = content if isinstance(content, list) else []
            calls = [*(message.get("tool_calls") or []), *blocks]
            self._given |= {str(call["id"]) for call in calls if isinstance(call, dict) and "id" in call}
            if "call_id" in message:
                self._given.add(str(message["call_id"]))

    def make(self, source: str) -> str:
        number = 0
        while True:
            digest = blake2b(f"{source} {number}".encode("utf-8", "replace"), digest_size=ID_LENGTH).digest()
            id_ = "".join(ID_LETTERS[byte % len(ID_LETTERS)] for byte in digest)
            if self.take(id_):
                return id_
            number += 1

    def of(self, id_: str, source: str) -> str:
        return id_ if self.take(id_) else self.make(f"{id_} {source}")


def plain(format_: Format, text: str, calls: Sequence[ToolCall], ids: CallIds) -> Iterator[JSONObject]:
    """An assistant's text and calls, without anything of a provider's.

    Each call and its result are a separate pair of messages: some models' templates accept only one call in a message.
    """
    for made in calls:
        call = Call(id=ids.make(made.id), name=made.name, arguments=made.arguments)
        yield from format_.called([call])
        yield from format_.results([(call, made)])
    yield format_.said(text if text.strip() else INTERRUPTED)


def decoded(decode: Callable[[bytes], T], kind: type[T], data: bytes) -> T:
    """JSON as a struct; raises `Trouble`, also for a known member of a wrong type.

    Servers send half surrogate pairs and half characters. msgspec refuses these; the standard library accepts them.
    """
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        raise Trouble("broken", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace")), kind)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise Trouble("broken", type(error).__name__) from error


def arguments_of(text: str) -> JSONObject | None:
    """A call's arguments; an empty text is an empty object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def outcome(call: ToolCall) -> Any:
    """The outcome that a model gets for a call: its result, or its error."""
    return call.error if call.error is not UNSET else call.result


def outcome_text(call: ToolCall) -> str:
    value = outcome(call)
    return value if isinstance(value, str) else to_text(value)


def to_text(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(clean(value), ensure_ascii=False)


def clean(value: Any) -> Any:
    """The JSON value without U+0000 and halves of surrogate pairs, which a database's text cannot hold."""
    match value:
        case str():
            return mended(value).replace("\0", "\ufffd")
        case dict():
            return {clean(name): clean(each) for name, each in value.items()}
        case list() | tuple():
            return [clean(each) for each in value]
    return value


def error_words(body: bytes) -> tuple[list[str], str, Any]:
    """An error response's codes, its sentence and its whole JSON; all APIs nest them alike."""
    try:
        value = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return [], body[:500].decode("utf-8", "replace"), None
    if isinstance(value, list) and value:
        value = value[0]
    return *words_of_error(value), value


def context_told(value: Any) -> int | None:
    """The context that llama-server tells in an error response, beside its sentence."""
    error = value.get("error") if isinstance(value, dict) else None
    found = error.get("n_ctx") if isinstance(error, dict) else None
    return found if isinstance(found, int) else None


def words_of_error(value: Any) -> tuple[list[str], str]:
    described = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(described, str):
        return [], described
    if not isinstance(described, dict):
        return [], ""
    inner = described.get("innererror")
    codes = [described.get(name) for name in ("type", "status", "code")]
    codes.append(inner.get("code") if isinstance(inner, dict) else None)
    sentence = described.get("message") or described.get("detail") or ""
    return [str(code) for code in codes if isinstance(code, str | int)], str(sentence)


def error_told(error: Any, *, began: bool) -> Trouble:
    """The trouble that an answer tells in its `error`, after it `began` to say something or before."""
    codes, sentence = words_of_error({"error": error})
    return told_in_stream(codes, sentence, began=began)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from OpenAI's `retry-after-ms`, from `Retry-After` (RFC 9110, 10.2.3), or from LiteLLM's name for that."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0), ("llm_provider-retry-after", 1.0)):
        try:
            return float(headers[name]) * factor
        except (KeyError, ValueError):
            continue
    return None
