"""Traces, if the environment names a place to send them (OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_ variables).

Names follow OpenTelemetry's semantic conventions for HTTP, databases and generative AI. docs/observability.md lists the
spans. No span holds the text of a user: no message, no argument of a tool, no value of a statement.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from sqlalchemy import event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

from chatapi.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP_PROTOCOL = "http/protobuf"  # https://opentelemetry.io/docs/specs/otel/protocol/exporter/


class Tracing:
    """Makes spans. Without a provider it does nothing, at next to no cost."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer: Tracer | None = None if provider is None else provider.get_tracer("chatapi")

    @property
    def on(self) -> bool:
        return self._tracer is not None

    def request(self, scope: Mapping[str, Any]) -> AbstractContextManager[Span | None]:
        """The span of an ASGI request, a child of the caller's if it names one (W3C Trace Context)."""
        if self._tracer is None:
            return nullcontext()
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return self._spanning(self._tracer, scope["method"], {}, SpanKind.SERVER, propagate.extract(carrier))

    def span(self, name: str, attributes: dict[str, Any]) -> AbstractContextManager[Span | None]:
        """A span that is the parent of those begun inside it. An exception marks it as failed, with its type only."""
        if self._tracer is None:
            return nullcontext()
        return self._spanning(self._tracer, name, attributes)

    def begin(self, name: str, attributes: dict[str, Any]) -> Span | None:
        """A span of a call to another service. It is no span's parent, and the caller ends it."""
        if self._tracer is None:
            return None
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=known(attributes))

    def close(self, seconds: float) -> None:
        """Send the spans that are left, and block for so many seconds at most."""
        if self._provider is not None:
            # The SDK waits for the exporter's time-out, 10 s, and a thread cannot be stopped.
            sending = threading.Thread(target=self._provider.shutdown, daemon=True)
            sending.start()
            sending.join(seconds)

    def watch_statements(self, engine: AsyncEngine) -> None:
        """Make a span for each statement inside another span."""
        if (tracer := self._tracer) is None:
            return
        system = engine.dialect.name
        sync_engine = engine.sync_engine

        @event.listens_for(sync_engine, "before_cursor_execute")
        def before(connection: Connection, _: Any, statement: str, *__: Any) -> None:
            if not trace.get_current_span().is_recording():
                return  # the statement of a heartbeat, for example
            attributes = of_statement(system, statement)
            connection.info["chatapi.span"] = tracer.start_span(
                attributes["db.operation.name"], kind=SpanKind.CLIENT, attributes=attributes
            )

        @event.listens_for(sync_engine, "after_cursor_execute")
        def after(connection: Connection, *_: Any) -> None:
            if (span := connection.info.pop("chatapi.span", None)) is not None:
                span.end()

        @event.listens_for(sync_engine, "handle_error")
        def failed(context: ExceptionContext) -> None:
            if context.connection is None:
                return
            if (span := context.connection.info.pop("chatapi.span", None)) is not None:
                fail(span, context.original_exception)
                span.end()

    def statement(self, system: str, statement: str) -> AbstractContextManager[Span | None]:
        """The span of a statement that SQLAlchemy does not see."""
        if self._tracer is None or not trace.get_current_span().is_recording():
            return nullcontext()
        attributes = of_statement(system, statement)
        return self._spanning(self._tracer, attributes["db.operation.name"], attributes, kind=SpanKind.CLIENT)

    @contextmanager
    def _spanning(
        self,
        tracer: Tracer,
        name: str,
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        context: Context | None = None,
    ) -> Iterator[Span]:
        with tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=known(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                fail(span, error)
                raise


def tracing_from(environ: Mapping[str, str] = os.environ) -> Tracing:
    """The tracing that OpenTelemetry's own variables configure; raises `SettingsError`.

    The SDK reads them itself: endpoint, headers, sampler, batches, service name and other resource attributes
    (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
    """
    endpoint = next((name for name in ENDPOINTS if environ.get(name)), None)
    off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if endpoint is None or off:
        return Tracing()
    for name in PROTOCOLS:
        if environ.get(name, HTTP_PROTOCOL) != HTTP_PROTOCOL:
            raise SettingsError(f"{name}: only {HTTP_PROTOCOL} is supported")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(f'{endpoint}: needs: pip install "chatapi[otel]"') from error
    called = {"service.name": environ.get("OTEL_SERVICE_NAME", "chatapi")}
    provider = TracerProvider(resource=Resource.create(called), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def of_statement(system: str, statement: str) -> dict[str, str]:
    """https://opentelemetry.io/docs/specs/semconv/database/database-spans/"""
    operation = statement.split(None, 1)[0].upper()
    return {"db.system.name": system, "db.operation.name": operation, "db.query.text": statement}


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed, without the error's text."""
    kind = getattr(error, "type", type(error).__qualname__)
    span.set_attribute("error.type", str(kind))
    span.set_status(Status(StatusCode.ERROR))


def known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
