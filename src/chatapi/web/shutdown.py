"""Notice of SIGTERM and SIGINT, in time to end the turns under way."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_to_stop(notify: Callable[[], object]) -> Iterator[None]:
    """Call `notify` on the loop at SIGTERM or SIGINT, and then the handler that was set before.

    A server tells its app of a shutdown only when the last request has been answered. Turns can keep a request open for
    longer than the server waits, so they must hear of it earlier.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one handles signals
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(notify)
        listener = before[signal.Signals(number)]
        if callable(listener):
            listener(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, listener in before.items():
            signal.signal(number, listener)
