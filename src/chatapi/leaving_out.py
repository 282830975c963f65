"""What others' libraries would import where it is installed, and a service that runs has no use for."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module

# They cost a tenth of a start, and of the memory at rest. Advanced Alchemy and Litestar look for attrs and pydantic, which
# come with other packages, and for what is made of these (cattrs, SQLModel): hidden alone, attrs and pydantic would make the
# imports of those fail. structlog looks for Rich, to show exceptions with it, httpx for Pygments, for a command of its own, and
# Uvicorn for watchfiles.
NOT_NEEDED = ("attr", "attrs", "cattrs", "pydantic", "pygments", "rich", "sqlmodel", "watchfiles")


@contextmanager
def left_out(names: Collection[str] = NOT_NEEDED) -> Iterator[None]:
    """Have what is imported meanwhile find these not installed. Afterwards they can be imported as ever."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None, for which Python raises ImportError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def import_jwt(*, whole: bool) -> None:
    """Import PyJWT, if not `whole` without `cryptography`: 8 MiB, which only public keys are for, not a shared secret."""
    with left_out(() if whole else ("cryptography",)):
        import_module("jwt")
