"""Logs: one line each on standard output, as JSON or for reading. What is in them: docs/observability.md.

Ids, names and numbers only. What a user wrote is kept out where it could come in unasked: by the text of an exception
(a database quotes the row, a provider the message), and by libraries that log bodies at DEBUG.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from logging.config import dictConfig
from typing import Any, Literal, TypeAlias

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

# As Python says it.
CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"
OURS = ("chatapi", "uvicorn", "alembic")  # whose lines LOG_LEVEL is about
# Their texts are names, addresses and our own sentences.
TELLING = (AppError, OSError, ImportError, AttributeError, NameError, TypeError)


def configure_logging(level: str, log_format: LogFormat | None) -> None:
    """Set up the process's logging: as JSON, or for reading where standard output is a terminal.

    Libraries speak up from WARNING on. At DEBUG, which is for developing, exceptions are told with their texts.
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
                name: {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": name}
                for name in ("line", "as_is")
            },
            "root": {"level": "ERROR" if level == "ERROR" else "WARNING", "handlers": ["line"]},
            "loggers": {
                **{name: {"level": level} for name in OURS},
                ACCESS: {"level": level, "handlers": ["as_is"], "propagate": False},
                # A line of JSON each, whatever LOG_LEVEL and LOG_FORMAT say.
                "chatapi.audit": {"level": "INFO", "handlers": ["as_is"], "propagate": False},
            },
        }
    )
    # What a record says of where it was made is in no line, and costs a third of one
    # (https://docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - named by that page, too
    # They would count in a registry of their own, and log the exception with what the database was given.
    stamina.instrumentation.set_on_retry_hooks([])


def access_log(level: str, log_format: LogFormat | None) -> FilteringBoundLogger:
    """For the one line that each request has: rendered by structlog alone, which takes half the time."""
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
    """For what is logged by Python's own means, ours and the libraries'."""

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
    """Whose request a line is about, where it is about one."""
    if (request := current_request.get()) is not None:
        event.update(request.log_fields())
    return event


def told(
    error: BaseException, *, all_texts: bool, seen: frozenset[BaseException] = frozenset()
) -> Iterator[str]:
    """A traceback as Python's own, but with no text that could quote what a user wrote."""
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
    """What of an exception's text can quote no user."""
    if all_texts or isinstance(error, TELLING):
        return f": {error}"
    if isinstance(error, DBAPIError):  # the statement has parameters in the place of values
        return f": SQLSTATE {getattr(error.orig, 'sqlstate', None)}, {error.statement}"
    return ""
