"""Errors that only `/mcp` knows."""

from chatapi.errors.base import AppError


class HostNotAllowed(AppError):
    status = 421
    type = "host-not-allowed"
    title = "The host is not allowed"
    when = "At `/mcp`: `Host` is none of the names in `MCP_ALLOWED_HOSTS`"
    remedy = "Use one of the service's names. Operator: see [MCP](mcp.md#behind-a-host-name)"

    def __init__(self) -> None:
        super().__init__("`Host` is none of the names that MCP is served under here.")


class OriginNotAllowed(AppError):
    status = 403
    type = "origin-not-allowed"
    title = "The origin is not allowed"
    when = "At `/mcp`: `Origin` is there, and is none of the names in `MCP_ALLOWED_HOSTS`"
    remedy = "Call it from no other site's page. Operator: see [MCP](mcp.md#behind-a-host-name)"

    def __init__(self) -> None:
        super().__init__("`Origin` is none of the names that MCP is served under here.")
