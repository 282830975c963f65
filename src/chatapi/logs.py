"""Logs: one line for each event on standard output, as JSON or for reading. Their fields: docs/observability.md.

Lines hold ids, names and numbers, and never the text of a user. It could come in by two ways, which are closed: by the
text of an exception (a database quotes the row, a provider the message), and by libraries that log bodies at DEBUG.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from logging.config import dictConfig
from typing import Any, Literal, TextIO, TypeAlias

import msgspec
import stamina.instrumentation
import structlog
from sqlalchemy.exc import DBAPIError
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor

from chatapi.context import current_request
from chatapi.errors.base import AppError

LogFormat: TypeAlias = Literal["json", "console"]

ACCESS = "chatapi.access"
TIME = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")

# The sentences of Python's own tracebacks.
CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"
OURS = ("chatapi", "uvicorn", "alembic")  # LOG_LEVEL is for the lines of these
# The texts of these exceptions are names, addresses and our own sentences.
TELLING = (AppError, OSError, ImportError, AttributeError, NameError, TypeError)


def configure_logging(level: str, log_format: LogFormat | None, to: TextIO | None = None) -> None:
    """Set up the process's logging: as JSON, or for reading if standard output is a terminal, to which it goes by default.

    Libraries log from WARNING on. At DEBUG, which is for developing, exceptions are logged with their texts.
    """
    dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {"()": formatter, "log_format": log_format, "all_texts": level == "DEBUG"},
                "as_is": {"format": "%(message)s"},
            },
            "handlers": {
                name: {"class": "logging.StreamHandler", "stream": to or sys.stdout, "formatter": name}
                for name in ("line", "as_is")
            },
            "root": {"level": "ERROR" if level == "ERROR" else "WARNING", "handlers": ["line"]},
            "loggers": {
                **{name: {"level": level} for name in OURS},
                ACCESS: {"level": level, "handlers": ["as_is"], "propagate": False},
                # Every event is a line of JSON, whatever LOG_LEVEL and LOG_FORMAT say.
                "chatapi.audit": {"level": "INFO", "handlers": ["as_is"], "propagate": False},
            },
        }
    )
    # No line names its thread, process or source file, and finding them out costs a third of the line's time
    # (https://docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - that page recommends it
    # Stamina's hooks would count in another registry, and log an exception with the values of its statement.
    stamina.instrumentation.set_on_retry_hooks([])


def access_log(level: str, log_format: LogFormat | None) -> FilteringBoundLogger:
    """The logger of the one line for each request. Structlog renders it alone, which takes half the time."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        logging.getLogger(ACCESS),
        processors=[
            TIME,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            renderer(log_format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    ).bind()
    return logger


def formatter(*, log_format: LogFormat | None, all_texts: bool) -> logging.Formatter:
    """The formatter of all lines that come by way of Python's `logging`, ours and the libraries'."""

    def format_exception(exc_info: ExcInfo) -> str:
        return "".join(told(exc_info[1], all_texts=all_texts)).rstrip()

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            TIME,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            add_request,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(format_exception),
            renderer(log_format),
        ],
    )


def renderer(log_format: LogFormat | None) -> Processor:
    terminal = sys.stdout.isatty()
    if (log_format or ("console" if terminal else "json")) == "json":
        return structlog.processors.JSONRenderer(encode)
    return structlog.dev.ConsoleRenderer(colors=terminal, timestamp_key="time")


def encode(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def add_request(_: Any, __: str, event: EventDict) -> EventDict:
    """Add the fields of the current request, if there is one."""
    if (request := current_request.get()) is not None:
        event.update(request.log_fields())
    return event


def told(
    error: BaseException, *, all_texts: bool, seen: frozenset[BaseException] = frozenset()
) -> Iterator[str]:
    """A traceback like Python's own, but without the texts that could quote a user."""
    seen |= {error}
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None and earlier not in seen:
        yield from told(earlier, all_texts=all_texts, seen=seen)
        yield CAUSED if error.__cause__ else MEANWHILE
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}{text_of(error, all_texts=all_texts)}\n"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield "\nOne of this group:\n\n"
            yield from told(each, all_texts=all_texts, seen=seen)


def text_of(error: BaseException, *, all_texts: bool = False) -> str:
    """The part of an exception's text that cannot quote a user."""
    if all_texts or isinstance(error, TELLING):
        return f": {error}"
    if isinstance(error, DBAPIError):  # the statement has placeholders, no values
        return f": SQLSTATE {getattr(error.orig, 'sqlstate', None)}, {error.statement}"
    return ""
