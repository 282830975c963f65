"""The service inside this process, for a terminal that was not told where another one runs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click
import uvicorn

from chatapi.app import app_of
from chatapi.logs import configure_logging
from chatapi.patience import Patience
from chatapi.services import Services
from chatapi.settings import DATA_DIRECTORY, Settings

LOOK_SECONDS = 0.02


@contextmanager
def embedded_service(settings: Settings) -> Iterator[str]:
    """Serve on a free port of this machine, in a thread of its own; yields the address.

    The log, audit lines among them, goes to `.chatapi/chat.log`, since the terminal is for the conversation.
    """
    path = DATA_DIRECTORY / "chat.log"
    with private_log(path) as log:
        configure_logging(settings.log_level, settings.log_format, to=log)
        app = app_of(Services.of(settings, Patience()))
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, name="service", daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError(f"the service did not start; {path} says why")
            time.sleep(LOOK_SECONDS)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def private_log(path: Path) -> TextIO:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        return path.open("a")
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from None
