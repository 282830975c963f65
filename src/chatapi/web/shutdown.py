"""Being told to stop, in time to end what is under way."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_to_stop(notify: Callable[[], object]) -> Iterator[None]:
    """Call `notify` on the loop at SIGTERM or SIGINT, and then whoever listened before.

    A server tells its app of a shutdown only when the last request has been answered; turns that would keep a
    request open for longer than the server waits must hear of it before.
    """
    if threading.current_thread() is not threading.main_thread():  # only there does Python take signals
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
