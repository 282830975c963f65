"""`chatapi chat`: finds the service, or starts one, signs in, and hands over to the shell."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import click

from chatapi import __version__
from chatapi.auth.tokens import TokenVerifier
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.terminal.client import Refused, Service, Unreachable
from chatapi.terminal.editor import read_line
from chatapi.terminal.embedded import embedded_service
from chatapi.terminal.printing import tell
from chatapi.terminal.shell import FAILED, NOT_REACHED, Shell, answer_as_json, once

TOKEN_LASTS = timedelta(days=1)


def talk(
    user: str,
    url: str | None,
    token: str | None,
    conversation: int | None,
    message: str | None,
    *,
    as_json: bool,
) -> int:
    """Talk to the assistant until the end; the exit code."""
    settings = Settings.from_env()
    try:
        if message is None and not sys.stdin.isatty():
            message = sys.stdin.read().strip()
        (message or "").encode()
    except UnicodeError:
        raise click.UsageError("The message is not valid UTF-8.") from None
    if message is not None and not message:
        raise click.UsageError("There is no message: neither --message nor standard input has one.")
    if token is not None and not (token.isascii() and token.isprintable()):
        raise click.UsageError("The token has characters that no token has.")
    if as_json and message is None:
        raise click.UsageError("--json needs a message.")
    with embedded_service(settings) if url is None else nullcontext(url) as address:
        try:
            with signed_in(address, token or minted(settings, user)) as service:
                if message is None:
                    return Shell(service, conversation, read_line).run(read_line)
                if as_json:
                    return answer_as_json(service, conversation, message)
                return once(Shell(service, conversation, read_line if sys.stdin.isatty() else None), message)
        except (Refused, Unreachable) as error:
            tell(str(error))
            return FAILED if isinstance(error, Refused) else NOT_REACHED


def minted(settings: Settings, user: str) -> str:
    return TokenVerifier(settings, Patience(), Metrics(__version__, None)).mint(user, TOKEN_LASTS)


@contextmanager
def signed_in(address: str, token: str) -> Iterator[Service]:
    service = Service(address, token)
    try:
        yield service
    finally:
        service.close()
