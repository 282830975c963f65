"""`chatapi database`: Alembic's commands, which the command line adds, and `distribute`."""

import asyncio

import click

from chatapi.db.distribution import NotDistributable, distribute_all
from chatapi.db.engine import database_config
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError


@click.group(name="database")
@click.pass_context
def database_group(context: click.Context) -> None:
    """Manage the schema: Alembic's commands."""
    context.obj = {"configs": [database_config(Settings.from_env(), Patience())]}


@database_group.command(name="distribute")
@click.option(
    "--shards",
    type=click.IntRange(1, 1_024),
    default=32,
    show_default=True,
    help="Of each table, for all workers.",
)
def distribute(shards: int) -> None:
    """Distribute the tables over the workers of a Citus coordinator, by user.

    For a database that is empty or small, with the service stopped. Afterwards the service needs DB_KIND=citus. What is
    distributed already is left as it is, so this may be run again, and is to be after an upgrade that has made a table.
    """
    try:
        lines = asyncio.run(distribute_all(Settings.from_env(), shards))
    except NotDistributable as error:
        raise SettingsError(f"DATABASE_URL: {error}") from None
    click.echo("\n".join(lines))
