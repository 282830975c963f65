"""The two ways to reach an MCP server: over HTTP, or as a child process."""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct


class HttpServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Annotated[str, Meta(pattern=r"^https?://[^/]")]
    type: str = "http"
    headers: dict[str, str] = {}


class StdioServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    command: Annotated[str, Meta(min_length=1)]
    type: str = "stdio"
    args: list[str] = []
    env: dict[str, str] = {}


Server: TypeAlias = HttpServer | StdioServer
