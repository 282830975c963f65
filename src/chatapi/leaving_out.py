"""What others' libraries would import where it is installed, and a service that runs has no use for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A tenth of a start, and of the memory at rest. Advanced Alchemy and Litestar look for the first three, which come with
# other packages; structlog for Rich, with which it would show exceptions; Uvicorn for watchfiles.
NOT_NEEDED = ("attr", "attrs", "pydantic", "rich", "watchfiles")


@contextmanager
def left_out() -> Iterator[None]:
    """Have what is imported meanwhile find these not installed. Afterwards they can be imported as ever."""
    absent = [name for name in NOT_NEEDED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None, for which Python raises ImportError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
