"""Rules for all requests: their ids, HEAD, bodies, and the guards that routes share."""

import re
from secrets import token_hex
from typing import Any, cast

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from chatapi.context import RequestContext, current_request
from chatapi.db.schema import Schema
from chatapi.errors.requests import Invalid, UnsupportedMediaType
from chatapi.text import path_and_message

MAX_BODY_BYTES = 1024 * 1024  # a message has 10,000 characters, and no other body is larger
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id_of(scope: Scope) -> str:
    """The request's id: the caller's `X-Request-ID` if it is sane, else a new one."""
    state = scope["state"]
    if "request_id" not in state:
        sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        state["request_id"] = sent if SANE_REQUEST_ID.fullmatch(sent) else token_hex(16)
    return str(state["request_id"])


def bind_request(app: ASGIApp) -> ASGIApp:
    """Set `context.current_request` for all code that runs for the request."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        address = client[0] if client else None
        request = RequestContext(request_id_of(scope), address, str(scope.get("method")))
        token = current_request.set(request)
        try:
            await app(scope, receive, send)
        finally:
            current_request.reset(token)

    return wrapped


async def add_headers(message: Message, scope: Scope) -> None:
    """Add the headers of the request's context. A before-send hook, which also sees responses that no route made."""
    if message["type"] != "http.response.start":
        return
    ours = {"x-request-id": request_id_of(scope)}
    if (request := current_request.get()) is not None:
        ours |= request.headers
    message["headers"] = [
        *message["headers"],
        *((name.lower().encode(), value.encode("latin-1")) for name, value in ours.items()),
    ]
    if scope["type"] == ScopeType.HTTP and scope["method"] == "OPTIONS":
        headers = MutableScopeHeaders(message)
        if "allow" in headers:
            headers["Allow"] = ", ".join(sorted(methods_of(scope))) or headers["Allow"]


def methods_of(scope: HTTPScope) -> set[str]:
    """The methods of a path. (Litestar's answer to OPTIONS names only those of the first handler.)"""
    path, app = scope["path_template"], scope["litestar_app"]
    methods: set[str] = {
        method
        for route in app.routes
        if route.path_format == path
        for method in getattr(route, "methods", ())
    }
    return methods | {"HEAD"} if "GET" in methods else methods


async def name_user(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """A guard that writes into the request's context whom it acts for."""
    if (request := current_request.get()) is not None:
        request.user_id = connection.user.user_id
        request.key_id = connection.user.key_id


class JSONRequest(Request[Any, Any, Any]):
    """A request whose body is read strictly: "1" is not 1, as the OpenAPI document says. Litestar would allow it.

    A body whose struct has a `read` is what that makes of it.
    """

    async def json(self) -> Any:
        body = self.route_handler.parsed_data_field
        annotation = body.annotation if body else Any
        try:
            value = await super().json()
            if (read := getattr(annotation, "read", None)) is not None:
                return read(value)
            msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            raise Invalid(path_and_message(error)) from None
        except UnicodeDecodeError:
            raise Invalid(("", "The body is not UTF-8.")) from None
        except RecursionError:
            raise Invalid(("", "The body is nested too deeply.")) from None
        return value


def answer_head(app: ASGIApp) -> ASGIApp:
    """Answer HEAD as GET without the body (RFC 9110, section 9.3.2), so that routes need not know of it."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "HEAD":
            await app(scope, receive, send)
            return

        async def send_no_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        # A copy of the scope: the server reads its own, and for HEAD expects the length of a body but no body.
        await app(cast("HTTPScope", {**scope, "method": "GET"}), receive, send_no_body)

    return wrapped


async def body_is_json(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """Refuse a body whose Content-Type is not JSON, where the handler takes one as `data`.

    A body without a Content-Type counts as JSON.
    """
    if handler.parsed_data_field is None:
        return
    headers = connection.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if not has_body:
        return
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("Send the body as JSON, with Content-Type: application/json.")


async def schema_is_current(connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    schema: Schema = connection.app.state.schema
    await schema.ensure_current()
