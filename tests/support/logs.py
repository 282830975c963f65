"""The messages of a logger."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heard(name: str) -> Iterator[list[str]]:
    """Collect the messages of a logger. (pytest's caplog listens at the root logger, which each new app configures anew.)"""
    messages: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(listener)
    try:
        yield messages
    finally:
        logger.removeHandler(listener)
