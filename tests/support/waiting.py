"""A report of what tasks wait for when a test has run out of time."""

import asyncio
from typing import Any


def where_tasks_wait(loop: asyncio.AbstractEventLoop) -> str:
    """Each task that has not ended, with the lines where it waits, the innermost last."""
    return "\n\n".join(
        "\n  ".join([task.get_name(), *_lines(task.get_coro())]) for task in asyncio.all_tasks(loop)
    )


def end(function: str, loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the task of a coroutine function, so that everything that it began ends, too, above all processes."""
    for task in asyncio.all_tasks(loop):
        if getattr(task.get_coro(), "__name__", None) == function:
            task.cancel()
            loop.run_until_complete(asyncio.wait([task], timeout=30))


def _lines(waiting: Any) -> list[str]:
    """The lines down the chain of awaits. `Task.get_stack` knows only the frame of the outermost coroutine."""
    lines = []
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            lines.append(repr(waiting))
        else:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}")
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return lines
