"""The kind of router that all routes are registered on."""

from typing import Self

from litestar import Router


class UncopiedRouter(Router):
    """A router that is registered in one place.

    Litestar copies a router for each that it is registered on, since it may be registered on several, and with it its operations and its
    middleware: a third of the time that the making of an app takes, and a set of keys to check tokens with for each copy.
    """

    def __deepcopy__(self, _: dict[int, object]) -> Self:
        return self
