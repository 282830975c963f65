"""The log line, the metrics and the span of each request, in one place; and `/metrics`.

It wraps the whole app instead of using the framework's hooks: it sees requests that no route handles, and costs one call.
"""

import secrets
import time
from typing import Any, TypeAlias

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send, WebSocketReceiveMessage
from opentelemetry.trace import Span, Status, StatusCode, format_trace_id
from structlog.typing import FilteringBoundLogger

from chatapi.context import current_request
from chatapi.errors.auth import Unauthenticated
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.turns.measures import Telemetry

# All other methods are counted as one, because callers can invent any number of them, each a time series.
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"
UNMATCHED = "unmatched"  # the route of a request that no route takes
HUNG_UP = 499  # nginx's status for a client that left before its answer, which nobody hears

# In the annotation of the inner function the union would be made anew for each request.
Received: TypeAlias = HTTPReceiveMessage | WebSocketReceiveMessage


def observe(app: ASGIApp, telemetry: Telemetry, access: FilteringBoundLogger) -> ASGIApp:
    """Log, count and trace each request by its route's template, never by its path, headers or body."""
    metrics, tracing = telemetry

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        request = current_request.get()
        if scope["type"] != ScopeType.HTTP or request is None:
            await app(scope, receive, send)
            return
        status = 500  # the server's own answer if the app gives none

        async def receive_and_see() -> Received:
            message = await receive()
            if message["type"] == "http.disconnect":
                request.hung_up = True
            return message

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = HUNG_UP if request.hung_up else message["status"]
            await send(message)

        began = time.perf_counter()
        with tracing.request(scope) as span:
            if span is not None:
                request.trace_id = format_trace_id(span.get_span_context().trace_id)
            try:
                await app(scope, receive_and_see, send_and_see)
            finally:
                seconds = time.perf_counter() - began
                route = scope.get("path_template") or UNMATCHED
                method = request.method if request.method in METHODS else OTHER
                metrics.requests.labels(method, route, status).inc()
                if status == 500:
                    metrics.defects.inc()
                metrics.request_seconds.labels(method, route).observe(seconds)
                if span is not None:
                    describe(span, method, route, status)
                access.info(
                    "request",
                    method=method,
                    route=route,
                    status=status,
                    duration_ms=round(seconds * 1000, 3),
                    **request.log_fields(),
                )

    return wrapped


def describe(span: Span, method: str, route: str, status: int) -> None:
    """https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server"""
    span.update_name(f"{method} {route}")
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def metrics_route(metrics: Metrics, settings: Settings) -> HTTPRouteHandler:
    """`/metrics` for Prometheus, behind a bearer token of its own if METRICS_TOKEN is set."""

    @get("/metrics", include_in_schema=False, sync_to_thread=True)
    def exposition(request: Request[Any, Any, State]) -> Response[bytes]:
        if settings.metrics_token is not None:
            admit(request.headers.get("authorization", ""), settings.metrics_token)
        body, media_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})  # by `media_type` Litestar adds a charset

    return exposition


def admit(authorization: str, token: str) -> None:
    scheme, _, sent = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("Send the token of METRICS_TOKEN: Authorization: Bearer …")
    if not secrets.compare_digest(sent.strip().encode(), token.encode()):
        raise Unauthenticated("this is not the token of METRICS_TOKEN", code="invalid_token")
