"""The SDK's transport over HTTP, with our errors for requests that it refuses before it reads their message."""

from collections.abc import Sequence
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from chatapi.errors.mcp import HostNotAllowed, OriginNotAllowed
from chatapi.errors.requests import BodyTooLarge, UnsupportedMediaType

# The errors for the statuses of the SDK's own refusals, which are bare text.
REFUSALS: dict[int, type[HostNotAllowed | OriginNotAllowed]] = {421: HostNotAllowed, 403: OriginNotAllowed}


class Transport(StreamableHTTPSessionManager):
    """Streamable HTTP without sessions, so that any replica can answer any request."""

    def __init__(self, server: Server[Any], *, hosts: Sequence[str] | None, max_body_bytes: int) -> None:
        security = transport_security(hosts)
        super().__init__(
            server,
            json_response=True,
            stateless=True,
            security_settings=security,
            max_request_body_size=max_body_bytes,
        )
        self._security = TransportSecurityMiddleware(security)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `UnsupportedMediaType`, `HostNotAllowed`, `OriginNotAllowed` and `BodyTooLarge`."""
        request = Request(scope)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("Send the message as JSON, with Content-Type: application/json.")
        if (refusal := await self._security.validate_request(request)) is not None:
            raise REFUSALS[refusal.status_code]
        # The server has checked that it is a number.
        if int(request.headers.get("content-length", 0)) > self.max_request_body_size:
            raise BodyTooLarge
        await super().handle_request(scope, bounded(receive, self.max_request_body_size), send)


def bounded(receive: Receive, max_bytes: int) -> Receive:
    """Receive a body without a Content-Length; raises `BodyTooLarge` once it is larger than this."""
    received = 0

    async def receive_within_bound() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise BodyTooLarge
        return message

    return receive_within_bound


def transport_security(hosts: Sequence[str] | None) -> TransportSecuritySettings:
    """The SDK's check against DNS rebinding. A host without a port stands for all ports."""
    if hosts is None:
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    ports = [form for host in hosts for form in (host, f"{host}:*")]
    return TransportSecuritySettings(
        allowed_hosts=ports,
        allowed_origins=[f"{scheme}://{each}" for scheme in ("http", "https") for each in ports],
    )
