"""The model's server: Chat Completions' wire format over loopback, in a process of its own, at next to no cost.

    PORT=9000 python -m benchmarks.provider

The first word of the user's message says how the answer comes; any other message is answered at once, in one piece. Who asks for
a summary gets one. The pieces are as long as OpenAI's, with all of its members.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import uvloop
from msgspec import Struct

from benchmarks.assistants import ANSWER, SLOW_SECONDS

WORDS = ["Of"] + [" course"] * 39
WORD_SECONDS = 0.02  # fifty tokens a second, as hosted models speak
OPEN_WORDS = 12
OPEN_SECONDS = 5.0  # between the words of a slow stream


class Manner(Struct, frozen=True):
    """How an answer comes: `words` with `pause` seconds between them, the first after `thinks` seconds."""

    words: Sequence[str] = (ANSWER,)
    thinks: float = 0.0
    pause: float = 0.0


MANNERS = {
    "forty": Manner(words=WORDS, pause=WORD_SECONDS),
    "hundred": Manner(words=[*WORDS, *WORDS, *WORDS[:20]], pause=WORD_SECONDS),
    "wait": Manner(thinks=SLOW_SECONDS),
    # The first word of a slow stream is the moment at which it is sent.
    "open": Manner(words=["", *[" word"] * (OPEN_WORDS - 1)], thinks=SLOW_SECONDS, pause=OPEN_SECONDS),
}
AT_ONCE = Manner()
SUMMARY = "<summary>The user asks what is on the list, and is told: three things.</summary>"
SUMS_UP = Manner(words=(SUMMARY,))
USAGE = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
# What the model calls before it answers, and how it answers then.
CALLS = {"tool": ("list_tasks", '{"status":"all"}'), "add": ("add_task", '{"title":"milk"}')}
AFTER_CALLS = {"add": "forty"}
HEAD = {
    "id": "chatcmpl-benchmark",
    "created": 1_700_000_000,
    "model": "benchmark",
    "service_tier": "default",
    "system_fingerprint": "fp_benchmark",
}


class Message(Struct):
    role: str
    content: Any = None


class Asked(Struct):
    messages: list[Message]
    stream: bool = False


decode = msgspec.json.Decoder(Asked).decode


def piece(choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    """An event of a stream, as a chunk of HTTP's chunked coding."""
    body = {**HEAD, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return chunk(b"data: " + msgspec.json.encode(body) + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(finish: str | None = None, **said: Any) -> bytes:
    return piece([{"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}])


def end(finish: str) -> bytes:
    return delta(finish) + piece([], USAGE) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def whole(finish: str, **said: Any) -> bytes:
    message = {"role": "assistant", "refusal": None, "annotations": [], **said}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    body = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return json_response(msgspec.json.encode(body))


def json_response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + delta(
    role="assistant", content="", refusal=None
)
ENDS = {finish: end(finish) for finish in ("stop", "tool_calls")}
DELTAS = {word: delta(content=word) for word in {*WORDS, ANSWER, SUMMARY, " word"}}


def called(name: str, arguments: str) -> dict[bool, bytes]:
    """The answer that calls this tool, streamed and whole."""
    call = {"id": "call_benchmark", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {
        True: STREAM + delta(tool_calls=[{"index": 0, **call}]) + ENDS["tool_calls"],
        False: whole("tool_calls", content=None, tool_calls=[call]),
    }


CALLED = {manner: called(*call) for manner, call in CALLS.items()}
WHOLE = {manner: whole("stop", content="".join(MANNERS[manner].words)) for manner in MANNERS}
WHOLE_AT_ONCE = whole("stop", content=ANSWER)
READY = json_response(b"{}")


class Provider(asyncio.Protocol):
    """One connection, kept alive; its client sends the next request when it has the answer to the last."""

    def __init__(self) -> None:
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.find(b"content-length:")
        length = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < head_end + 4 + length:
            return
        body, self._buffer = self._buffer[head_end + 4 :], b""
        if body:
            self._answer(decode(body))
        else:
            self._write(READY)

    def _answer(self, asked: Asked) -> None:
        question = next(message for message in reversed(asked.messages) if message.role == "user")
        name = str(question.content).partition(" ")[0]
        if asked.messages[-1].role == "tool":
            name = AFTER_CALLS.get(name, "")
        if name in CALLED:
            self._write(CALLED[name][asked.stream])
            return
        manner = MANNERS.get(name, AT_ONCE)
        if "<summary>" in str(asked.messages[0].content):
            manner = SUMS_UP
        if asked.stream:
            begin = self._begin if manner.thinks or manner.pause else self._say_all
            self._after(manner.thinks, begin, manner)
        else:
            self._after(manner.thinks, self._write, WHOLE.get(name, WHOLE_AT_ONCE))

    def _after(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        if seconds:
            self._timer = self._loop.call_later(seconds, callback, *arguments)
        else:
            callback(*arguments)

    def _say_all(self, manner: Manner) -> None:
        self._write(STREAM + b"".join(DELTAS[word] for word in manner.words) + ENDS["stop"])

    def _begin(self, manner: Manner) -> None:
        first = manner.words[0]
        said = DELTAS[first] if first else delta(content=f"@{time.monotonic()}@")
        self._write(STREAM + said)
        self._go_on(manner, 1)

    def _go_on(self, manner: Manner, place: int) -> None:
        if place == len(manner.words):
            self._write(ENDS["stop"])
        else:
            self._after(manner.pause, self._say, manner, place)

    def _say(self, manner: Manner, place: int) -> None:
        self._write(DELTAS[manner.words[place]])
        self._go_on(manner, place + 1)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", int(os.environ["PORT"]), backlog=4_096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
