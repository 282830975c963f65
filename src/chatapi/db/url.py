"""Turns `DATABASE_URL` into SQLAlchemy's URL and the driver's arguments."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from chatapi.db import hosts, sqlite
from chatapi.db.hosts import Address
from chatapi.db.tls import tls
from chatapi.patience import Patience
from chatapi.settings import SettingsError


def engine_url(database_url: str, patience: Patience) -> tuple[URL, dict[str, Any]]:
    """The URL for SQLAlchemy's asyncpg dialect or ours for SQLite, and the driver's arguments.

    Takes the libpq form that Neon and others hand out: `sslmode` and `sslrootcert` become asyncpg's `ssl`,
    `application_name` and `options` become start-up parameters, `channel_binding` is left out (asyncpg has no
    SCRAM-PLUS to bind with).
    Behind a pooler in transaction mode (a host with `-pooler`, or `pgbouncer=true`) no statement is kept prepared, unless
    `pgbouncer=false` says that it keeps them itself.
    Of several hosts the one is used that takes writes; see `db.connections`.
    """
    database_url, several = hosts.split(database_url)
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise SettingsError("DATABASE_URL: is not a database URL") from None
    if url.drivername in {"sqlite", "sqlite+aiosqlite"}:
        if url.database in {None, "", ":memory:"}:
            raise SettingsError(
                "DATABASE_URL: needs a file; in memory each connection would have a database of its own"
            )
        return url.set(drivername=sqlite.DRIVER), {}
    if url.drivername not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise SettingsError(
            f"DATABASE_URL: {url.drivername}:// is not supported; use postgresql:// or sqlite://"
        )

    query: dict[str, Any] = dict(url.query)
    addresses = hosts.addresses_of(several, url.host, url.port, query)
    arguments = arguments_of(query, addresses, patience)
    if is_pooled(query, [each.host for each in addresses] or [url.host or ""]):
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    if unknown := query.keys() - {"host", "port"}:
        raise SettingsError(f"DATABASE_URL: the parameter {min(unknown)} is not supported")
    return url.set(drivername="postgresql+asyncpg", query=query), arguments


def arguments_of(query: dict[str, Any], addresses: list[Address], patience: Patience) -> dict[str, Any]:
    """The arguments of asyncpg for libpq's parameters, which are taken out of the query."""
    from chatapi.db.connections import Connection, Hosts

    arguments: dict[str, Any] = {
        "connection_class": Connection,
        "timeout": patience.database_connect,
        "command_timeout": patience.database_statement,
    }
    if (encryption := tls(query)) is not None:
        arguments["ssl"] = encryption
    if addresses:
        timeout = patience.database_connect if len(addresses) == 1 else patience.database_host
        arguments["async_creator_fn"] = Hosts(addresses, timeout)
    query.pop("channel_binding", None)
    start_up = {name: query.pop(name) for name in ("application_name", "options") if name in query}
    arguments["server_settings"] = {"application_name": "chatapi", **start_up}
    return arguments


def is_pooled(query: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether statements go through a pooler that keeps none prepared; what says so is taken out of the query."""
    said = query.pop("pgbouncer", "true" if any("-pooler." in name for name in names) else "false")
    if said not in {"true", "false"}:
        raise SettingsError("DATABASE_URL: pgbouncer is true or false")
    return bool(said == "true")


def is_behind_pooler(connect_args: dict[str, Any]) -> bool:
    """Whether a pooler may have one server parse a statement and another run it; see `engine_url`."""
    return "statement_cache_size" in connect_args
