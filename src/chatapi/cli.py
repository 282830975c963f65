"""chatapi: the back end of a chat."""

import asyncio
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import click
from dotenv import load_dotenv

from chatapi import __version__
from chatapi.leaving_out import import_jwt, left_out

gc.disable()  # imports make what stays: to look through it again and again takes a fifth of them
with left_out():
    import uvicorn
    from litestar import Litestar

    from chatapi.agent.loading import is_bundled
    from chatapi.conversations.search.backfill import Backfill
    from chatapi.db.database import Database
    from chatapi.db.failures import cause_of, is_transient
    from chatapi.db.schema import Schema
    from chatapi.errors.base import AppError
    from chatapi.logs import configure_logging
    from chatapi.metrics import MULTIPROCESS, Metrics
    from chatapi.patience import Patience
    from chatapi.settings import LOCAL_USER, Settings, SettingsError
    from chatapi.tracing import Tracing
    from chatapi.turns.retention import expire
    from chatapi.web.server import BoundedHttp, Server

gc.freeze()
gc.enable()

APP = "chatapi.app:create_app"
APP_VARIABLE = "LITESTAR_APP"  # Litestar's own; workers inherit it
WORKER = "chatapi.cli:settled_app"
# New objects before a collection. Python's own 700 are the objects of two turns, and those hold no cycles.
COLLECT_AFTER = 10_000
# A worker that does not answer its supervisor in this time is replaced. On a busy machine a start takes several seconds.
ANSWER_SECONDS = 30
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def main(app: str = APP) -> None:
    """The console script. `app` is the path of the function that makes the app, as Litestar wants it."""
    load_dotenv(".env")
    os.environ[APP_VARIABLE] = app
    own = [run, token, chat, check_config, retention, index_search, usage, version]
    try:
        if sys.argv[1:2] and sys.argv[1] in {command.name for command in own}:
            click.Group(commands=own)(prog_name="chatapi")
        else:
            all_commands(own)(prog_name="chatapi")
    except SettingsError as error:
        sys.exit(f"chatapi: {error}")
    except AppError as error:
        sys.exit(f"chatapi: {error.detail}")
    except Exception as error:
        if not is_transient(error):
            raise
        sys.exit(f"chatapi: DATABASE_URL: {cause_of(error)}")


def all_commands(own: Iterable[click.Command]) -> click.Group:
    """With Litestar's and Alembic's, which a service that runs should not have to import."""
    from advanced_alchemy.cli import add_migration_commands
    from litestar.cli.main import litestar_group

    from chatapi.db.commands import database_group

    litestar_group.help = __doc__
    add_migration_commands(database_group)
    for command in (*own, database_group):
        litestar_group.add_command(command)  # type: ignore[arg-type] # `run` and `version` take the place of Litestar's
    return litestar_group


class Duration(click.ParamType[timedelta]):
    """A number and a unit: 90s, 15m, 1h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 1h or 7d", param, ctx)
        return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.command()
@click.option("--host", help="The address to listen on; HOST if left out.")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port to listen on; PORT if left out.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many processes.")
def run(host: str | None, port: int | None, workers: int) -> None:
    """Run the service."""
    settings = Settings.from_env()
    signal.signal(signal.SIGTERM, end_well)
    options = server_options(settings, Patience()) | {"workers": workers}
    options |= {} if host is None else {"host": host}
    options |= {} if port is None else {"port": port}
    # Also for workers, who make their own: what is configured wrong is said once, and here.
    app = settled_app()
    if workers == 1:
        with suppress(KeyboardInterrupt):
            Server(uvicorn.Config(app, **options)).run()
        return
    with shared_metrics() if settings.metrics == "on" else nullcontext():
        uvicorn.run(WORKER, factory=True, **options)


def server_options(settings: Settings, patience: Patience) -> dict[str, Any]:
    """Uvicorn's options."""
    return {
        "host": settings.host,
        "port": settings.port,
        "log_config": None,  # the app configures the server's logging, too, and has a log line for each request
        "access_log": False,
        "timeout_keep_alive": settings.keep_alive_seconds,
        "timeout_graceful_shutdown": patience.grace,
        "timeout_worker_healthcheck": ANSWER_SECONDS,
        "server_header": False,
        "http": partial(BoundedHttp, patience=patience),
        "ws": "none",  # nothing here speaks it, and Uvicorn would import whichever library for it is there
    }


def settled_app() -> Litestar:
    """The app of a process that serves it."""
    gc.disable()  # as above; `settle` ends it
    settings = Settings.from_env()
    # An agent of the user's own may use PyJWT, too.
    import_jwt(whole=bool(settings.issuers) or not is_bundled(settings.chat_model))
    with left_out():
        make = resolve_name(os.environ[APP_VARIABLE])
    app: Litestar = make()
    settle()
    return app


def settle() -> None:
    """Exclude the app and all modules from garbage collection, because they stay until the process ends.

    This lowers the collector's share of a turn's CPU from some 7 % to 1 %.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    gc.enable()


@contextmanager
def shared_metrics() -> Iterator[None]:
    """A directory in which the workers count together. They find it in the environment that they inherit."""
    try:
        directory = TemporaryDirectory(prefix="chatapi-metrics-")
    except OSError:
        raise SettingsError(
            "METRICS: several workers count together in a temporary directory, and none can be written to; mount one at "
            "/tmp, name one by TMPDIR, or set METRICS=off"
        ) from None
    with directory as path:
        os.environ[MULTIPROCESS] = path
        yield


def end_well(*_: object) -> NoReturn:
    """Exit with 0. Uvicorn calls this handler after its shutdown, by raising SIGTERM again."""
    sys.exit(0)


@click.command()
@click.argument("user_id")
@click.option(
    "--expires", type=Duration(), default="1h", show_default=True, help="How long it holds: 90s, 15m, 1h, 7d."
)
def token(user_id: str, expires: timedelta) -> None:
    """Print a development token for USER_ID, signed with BETTER_AUTH_SECRET."""
    from chatapi.auth.tokens import TokenVerifier

    settings = Settings.from_env()
    verifier = TokenVerifier(settings, Patience(), Metrics(__version__, settings.chatapi_build))
    click.echo(verifier.mint(user_id, expires))


@click.command()
@click.option(
    "--user", default=LOCAL_USER, show_default=True, help="Who you are, where the token is made here."
)
@click.option(
    "--url", help="The service to talk to. Without it one runs in this process, with your settings."
)
@click.option("--token", envvar="CHATAPI_TOKEN", help="Your token, if the service's secret is not here.")
@click.option("--conversation", type=click.IntRange(1), help="The conversation to go on with.")
@click.option("--message", help="Send this, print the answer and leave. Standard input does the same.")
@click.option("--json", "as_json", is_flag=True, help="Print the service's whole answer to the message.")
def chat(
    user: str,
    url: str | None,
    token: str | None,
    conversation: int | None,
    message: str | None,
    *,
    as_json: bool,
) -> None:
    """Talk to the assistant in the terminal."""
    from chatapi.terminal.command import talk

    sys.exit(talk(user, url, token, conversation, message, as_json=as_json))


@click.command()
def version() -> None:
    """Show the version of chatapi."""
    click.echo(__version__)


@click.command(name="check-config")
@click.option(
    "--connect",
    is_flag=True,
    help="Ask the database, issuer of keys, Redis, files, models and MCP servers, too.",
)
def check_config(*, connect: bool) -> None:
    """Say what is configured; without secrets. What is wrong is said, and ends with status 1."""
    from chatapi.agent.reports import report_on_models
    from chatapi.mcp.config import silent_servers
    from chatapi.web.checks import ask_all

    settings = Settings.from_env()
    for name, value in settings.public().items():
        click.echo(f"{name}={value}")
    settled_app()  # raises what `run` would raise
    if not connect:
        return
    configure_logging(settings.log_level, settings.log_format, to=sys.stderr)
    wrong = [
        f"{name}: {trouble}"
        for name, trouble in asyncio.run(ask_all(settings, Patience())).items()
        if trouble
    ]
    for model in asyncio.run(report_on_models(settings)):
        if model.trouble is not None:
            wrong.append(f"CHAT_MODEL: {model.name}: {model.trouble}")
        elif model.context is not None:
            click.echo(f"{model.name} takes {model.context} tokens.", err=True)
    wrong += [
        f"MCP_SERVERS: {name} does not answer" for name in asyncio.run(silent_servers(settings, Patience()))
    ]
    for line in wrong:
        click.echo(line, err=True)
    if wrong:
        sys.exit(1)
    click.echo("Everything that is configured answers.", err=True)


@click.command()
@click.option(
    "--older-than",
    type=Duration(),
    required=True,
    help="Without any activity for this long: 90d, 36h; 1d or more.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
def retention(*, older_than: timedelta, dry_run: bool) -> None:
    """Delete conversations in which nothing has happened for long, with their messages.

    The service may run meanwhile. Each deletion is a line of the audit trail on standard output.
    """
    if older_than < timedelta(days=1):  # a client may still send the Idempotency-Key of a turn in it
        raise click.BadParameter("is less than idempotency keys hold, a day", param_hint="--older-than")
    try:
        before = datetime.now(UTC) - older_than
    except OverflowError:
        raise click.BadParameter("is longer than there are dates", param_hint="--older-than") from None
    settings = Settings.from_env()
    configure_logging(settings.log_level, settings.log_format)
    logging.getLogger("chatapi").setLevel(logging.WARNING)  # standard output is for the audit trail
    count = asyncio.run(expire_in(settings, before, dry_run=dry_run))
    said = "would be deleted" if dry_run else "deleted"
    click.echo(f"Conversations last active before {before:%Y-%m-%d %H:%M} UTC {said}: {count}", err=True)


@click.command()
@click.option("--user", help="Of this user alone.")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day, by UTC.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day; today if left out.")
@click.option(
    "--by",
    type=click.Choice(["user", "day", "model", "conversation"]),
    help="A line for each. If left out: user, or with --user day.",
)
def usage(user: str | None, first: datetime | None, last: datetime | None, by: Any) -> None:
    """Show what users have used: turns, tokens and cost in USD (- where a price is unknown).

    The last 30 days if no range is given, and a year at the most. Columns are separated by tabs.
    """
    from chatapi.usage.operators import table_of

    days = (first and first.date(), last and last.date())
    for line in asyncio.run(table_of(Settings.from_env(), user, days, by)):
        click.echo(line)


async def expire_in(settings: Settings, before: datetime, *, dry_run: bool) -> int:
    async with current_database(settings) as (database, _):
        return await expire(database, before, dry_run=dry_run)


@click.command(name="index-search")
def index_search() -> None:
    """Make messages searchable that a version without search has stored.

    The service does that by itself, twice: after its first start, and an hour later for what processes of the version before
    have written meanwhile. This command does it at once, and may be run at any time. Broken off, it goes on where it was.
    """
    settings = Settings.from_env()
    configure_logging(settings.log_level, settings.log_format)
    asyncio.run(index_in(settings))
    click.echo("All messages are searchable.", err=True)


async def index_in(settings: Settings) -> None:
    async with current_database(settings) as (database, schema):
        await Backfill(database, schema).finish()


@asynccontextmanager
async def current_database(settings: Settings) -> AsyncIterator[tuple[Database, Schema]]:
    """The database for a command, if its schema is this version's; raises `SchemaOutdated`."""
    database = Database(settings, Patience(), Metrics(__version__, settings.chatapi_build), Tracing())
    schema = Schema(database, settings, Patience())
    try:
        await schema.ensure_current()
        yield database, schema
    finally:
        await database.close()
