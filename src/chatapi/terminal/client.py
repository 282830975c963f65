"""A user's conversation over HTTP: its turns as chunks, read on after a lost connection, and stopped when asked to."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

# Seconds until a stream that was lost is read on in; after the last one it is given up.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, None)
SILENCE_SECONDS = 35.0  # twice the service's longest silence, and some
ENDS = {"finish", "abort", "error"}
# These are asked directly, not by the proxy that the environment names: it could not reach them, and would see the token.
THIS_MACHINE = ("127.0.0.1", "[::1]", "localhost")

Chunk = dict[str, Any]


class Refused(Exception):
    """The service has answered with a problem document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or "refused")
        self.problem = problem


class Unreachable(Exception):
    """The service does not answer, or has stopped to."""

    def __str__(self) -> str:
        return f"The service is not reached: {super().__str__()}"


class Service:
    """A user's requests to a service."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        timeout = httpx.Timeout(10, read=SILENCE_SECONDS)
        direct = {f"all://{host}": None for host in THIS_MACHINE}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, mounts=direct)
        self.user_id = str(self.request("GET", "/api/me")["user_id"])

    def close(self) -> None:
        self._http.close()

    def mine(self, path: str) -> str:
        return f"/api/{quote(self.user_id, safe='')}{path}"

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON. Raises `Refused` or `Unreachable`."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Unreachable(str(error)) from None
        if response.is_error:
            raise refused(response)
        return response.json() if response.content else None

    def stream(self, method: str, path: str, **options: Any) -> Iterator[Chunk]:
        """The chunks of a stream. Raises `Refused`, and `httpx.HTTPError` if it is cut."""
        headers = {"Accept": "text/event-stream", **options.pop("headers", {})}
        with self._http.stream(method, path, headers=headers, **options) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            ended = response.status_code == 204
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    chunk: Chunk = json.loads(line.removeprefix("data: "))
                    ended |= chunk["type"] in ENDS
                    yield chunk
        if not ended:
            raise httpx.ReadError("the stream was cut")


def refused(response: httpx.Response) -> Refused:
    try:
        return Refused(response.json())
    except ValueError:
        return Refused({"detail": f"HTTP {response.status_code}: {response.text[:200]}"})


class Shown:
    """What has been told of a turn, so that a stream that begins anew does not tell it again."""

    def __init__(self) -> None:
        self._said = 0
        self._calls: set[tuple[str, str]] = set()
        self._replayed = 0

    def replay(self) -> None:
        """The stream begins at the turn's beginning again."""
        self._replayed = self._said

    def new(self, chunk: Chunk) -> Chunk | None:
        """The chunk, or as much of its text as is new; None if nothing is."""
        if chunk["type"] == "text-delta":
            old = min(self._replayed, len(chunk["delta"]))
            self._replayed -= old
            text = chunk["delta"][old:]
            self._said += len(text)
            return {**chunk, "delta": text} if text else None
        if (call := chunk.get("toolCallId")) is not None:
            if (chunk["type"], call) in self._calls:
                return None
            self._calls.add((chunk["type"], call))
        return chunk


class Conversation:
    """One conversation; without an id, the first message begins it."""

    def __init__(self, service: Service, conversation_id: int | None = None) -> None:
        self._service = service
        self.conversation_id = conversation_id
        self.turn_id: int | None = None
        self._shown = Shown()
        self._begun = self._stopping = False

    def say(self, message: str, files: Sequence[int] = ()) -> Iterator[Chunk]:
        """Send a message."""
        self._shown, self.turn_id = Shown(), None
        return self._turn("/chat", {**content_of(message, files), "conversation_id": self.conversation_id})

    def answer_again(
        self, turn_id: int, message: str | None = None, files: Sequence[int] = ()
    ) -> Iterator[Chunk]:
        """Answer the last turn anew, or an edited message in its place."""
        self._shown, self.turn_id = Shown(), None
        return self._turn(
            f"/turns/{turn_id}/regenerate", {} if message is None else content_of(message, files)
        )

    def answer(self, answers: Sequence[Mapping[str, Any]]) -> Iterator[Chunk]:
        """Go on with a turn that waits for these answers."""
        return self._turn(f"/turns/{self.turn_id}/answers", {"answers": answers})

    def follow(self, turn_id: int) -> Iterator[Chunk]:
        """Read a turn that has begun elsewhere, or that waits for answers."""
        self._shown, self.turn_id = Shown(), turn_id
        return self._turn(None, {})

    def stop(self) -> None:
        """Cancel the turn, as soon as it is known. Its stream then ends by itself.

        Called from a signal handler: the request is made in a thread, since the stream may hold the client's locks here.
        """
        self._stopping = True
        if self._begun:
            Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        with suppress(
            Refused, Unreachable
        ):  # it has ended already, or the stream will say what is the matter
            self._service.request("POST", self._service.mine(f"/turns/{self.turn_id}/cancel"))

    def _turn(self, path: str | None, body: Mapping[str, Any]) -> Iterator[Chunk]:
        """One turn to its end, whatever becomes of the connection: sent again with its key, or read from its beginning.

        Without a path it has begun already.
        """
        self._stopping, self._begun = False, path is None
        send = {"json": body, "headers": {"Idempotency-Key": str(uuid4())}}
        for wait in WAITS:
            try:
                yield from self._rest(path, send)
            except httpx.HTTPError as error:
                if wait is None:
                    raise Unreachable(str(error)) from None
                time.sleep(wait)
            else:
                return

    def _rest(self, path: str | None, send: Mapping[str, Any]) -> Iterator[Chunk]:
        """As much of the turn as is not shown yet."""
        if path is None or self._begun:
            self._shown.replay()
            route = f"/chat/{self.conversation_id}/stream?turn_id={self.turn_id}"
            chunks = self._service.stream("GET", self._service.mine(route))
        else:
            chunks = self._service.stream("POST", self._service.mine(path), **send)
        for chunk in chunks:
            if chunk["type"] == "start":
                self._begin(chunk["messageMetadata"])
            if (new := self._shown.new(chunk)) is not None:
                yield new

    def _begin(self, metadata: Mapping[str, Any]) -> None:
        self.conversation_id = metadata["conversation_id"]
        self.turn_id = metadata["turn_id"]
        self._begun = True
        if self._stopping:
            self._cancel()


def content_of(message: str, files: Sequence[int]) -> dict[str, Any]:
    """A message as a request has it."""
    if not files:
        return {"message": message}
    texts = [{"type": "text", "text": message}] if message else []
    return {"parts": [*({"type": "file", "file_id": file} for file in files), *texts]}


def upload(service: Service, path: Path) -> dict[str, Any]:
    """Keep a file for the next message."""
    with path.open("rb") as content:
        stored: dict[str, Any] = service.request(
            "POST", service.mine("/files"), files={"file": (path.name, content)}
        )
    return stored
