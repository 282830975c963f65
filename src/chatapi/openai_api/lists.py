"""Lists of items, and the parameters that they share."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from msgspec import Struct

from chatapi.errors.openai_api import UnsupportedParameter
from chatapi.openai_api.stored_items import ItemPage

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many items at the most")]
After = Annotated[str | None, QueryParameter(max_length=100, description="The `last_id` of the page before")]


class ItemList(Struct, frozen=True, kw_only=True):
    """`first_id` and `last_id` are null if there is no item."""

    object: Literal["list"] = "list"
    data: Sequence[dict[str, Any]]
    has_more: bool
    first_id: str | None
    last_id: str | None


def includes_nothing(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A guard: items have nothing that a request could ask for beside them; raises `UnsupportedParameter`."""
    if any(connection.query_params.get(name) for name in ("include", "include[]")):
        raise UnsupportedParameter("include", "Items are always shown whole.")


def list_of(page: ItemPage) -> ItemList:
    ids = [item["id"] for item in page.data] or [None]
    return ItemList(data=page.data, has_more=page.has_more, first_id=ids[0], last_id=ids[-1])
