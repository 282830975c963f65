"""How answers are served, by chat completions and responses alike: as a stream, or as long as the client waits for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from litestar import Request, Response
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State
from litestar.params import HeaderParameter
from prometheus_client import Gauge

from chatapi.auth.tokens import Identity
from chatapi.turns.event_stream import EventStream, hung_up
from chatapi.turns.runner import Runner
from chatapi.turns.service import ChatService

T = TypeVar("T")

MAX_BODY_BYTES = 16 * 1024 * 1024  # a long conversation with two pictures of a camera

KeyHeader = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        max_length=255,
        pattern=r"^[\x21-\x7e]*$",
        description="With what is stored: sent again with the same request, it gets the first answer again.",
    ),
]
ChatConnection: TypeAlias = Request[Identity, None, State]


def stream(
    chat: ChatService,
    events: Callable[[Gauge, float], AsyncIterator[bytes]],
    headers: Mapping[str, str] | None = None,
    background: BackgroundTask | None = None,
) -> Response[Any]:
    """Respond with these events, which are told which gauge counts them, and after how many seconds of silence to say so."""
    return EventStream(
        events(chat.telemetry.metrics.streams_active, chat.patience.stream_heartbeat),
        headers or {},
        background,
    )


def stop_after(runner: Runner) -> BackgroundTask:
    """End what is no turn after the response, however that ended."""
    return BackgroundTask(runner.stop, "cancelled")


async def unless_hung_up(request: ChatConnection, runner: Runner, answer: Coroutine[Any, Any, T]) -> T:
    """The answer of what is no turn, which ends when the client hangs up."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(hung_up(request.receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            runner.stop("cancelled")
        return await answering
    finally:
        leaving.cancel()
