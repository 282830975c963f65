"""Distributes a database's tables over the workers of a Citus coordinator, by user (docs/scaling.md).

All rows of a user are in one shard of each table, and these shards are on one worker. So keys and foreign keys have the
owner in them: Citus checks them within a shard.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from chatapi.db.engine import database_config
from chatapi.db.failures import cause_of
from chatapi.db.owner import PROPAGATION, passed_on
from chatapi.db.placing import REFERENCES, ROOT
from chatapi.patience import Patience
from chatapi.settings import Settings

RowT = TypeVar("RowT", bound=tuple[Any, ...])

STATEMENT_SECONDS = 3_600.0  # a table's rows are copied by one statement
LOCK = 0x63697475  # any number, as long as nobody else uses it: "citu"

TABLES = """
SELECT c.relname AS name,
  CASE WHEN c.relname = 'users' THEN 'id'
    WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_id') THEN 'user_id' END AS owner,
  c.relforcerowsecurity AS is_guarded,
  d.logicalrelid IS NOT NULL AS is_placed
FROM pg_class c LEFT JOIN pg_dist_partition d ON d.logicalrelid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
ORDER BY c.relname <> 'users', c.relname
"""
KEYS = """
SELECT k.conname AS name, t.relname AS "table", k.contype::text AS kind, k.confdeltype = 'n' AS sets_null,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) AS columns,
  pg_get_constraintdef(k.oid) AS definition
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
WHERE k.connamespace = current_schema()::regnamespace AND k.contype IN ('p', 'u', 'f')
ORDER BY t.relname, k.conname
"""
PLACED = """
SELECT d.logicalrelid::regclass::text AS name, d.partmethod::text AS method, d.colocationid AS colocation,
  (SELECT count(*) FROM pg_dist_shard s WHERE s.logicalrelid = d.logicalrelid) AS shards
FROM pg_dist_partition d
"""


class NotDistributable(Exception):
    """Why the tables cannot be distributed, for an operator."""


class Table(NamedTuple):
    """A table, and the column of its owner, if it has one."""

    name: str
    owner: str | None
    is_guarded: bool
    is_placed: bool


class Key(NamedTuple):
    """A primary key, a unique constraint or a foreign key."""

    name: str
    table: str
    kind: str
    sets_null: bool
    columns: Sequence[str]
    definition: str


async def distribute_all(settings: Settings, shards: int) -> list[str]:
    """As `distribute`, in the database of the settings."""
    if settings.sqlite:
        raise NotDistributable("SQLite is for one machine")
    patience = replace(Patience(), database_statement=STATEMENT_SECONDS)
    engine = database_config(settings, patience).get_engine()
    try:
        async with engine.begin() as connection:
            return await distribute(connection, shards)
    finally:
        await engine.dispose()


async def distribute(connection: AsyncConnection, shards: int) -> list[str]:
    """Distribute the tables that are not, in one transaction; returns what was done, in sentences.

    The service must be stopped. Raises `NotDistributable` where that cannot be, and when a check of the result fails.
    """
    await check_cluster(connection)
    await run(connection, f"SELECT pg_advisory_xact_lock({LOCK})")
    await run(connection, "SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
    tables = {table.name: table for table in await rows(connection, TABLES, Table)}
    keys = await rows(connection, KEYS, Key)
    # Foreign keys have the owner since migration 0017.
    if ROOT not in tables or any(key.kind == "f" and "user_id" not in key.columns for key in keys):
        raise NotDistributable(
            "There are no tables of this version. Run: chatapi database upgrade --no-prompt"
        )
    new = [
        table
        for table in tables.values()
        if not table.is_placed and (table.owner is not None or table.name in REFERENCES)
    ]
    if not new:
        return ["All tables are distributed already.", *await report(connection, tables)]
    counts = {table.name: await count(connection, table.name) for table in new}
    await place(connection, new, keys, shards)
    for name, before in counts.items():
        if (after := await count(connection, name)) != before:
            raise NotDistributable(f"{name} had {before} rows, and has {after}. Nothing was changed.")
    await check_owner_arrives(connection)
    return await report(connection, tables)


async def check_cluster(connection: AsyncConnection) -> None:
    """Raise `NotDistributable` unless this is a Citus coordinator with a place for shards."""
    if await connection.scalar(text("SELECT to_regclass('pg_catalog.pg_dist_partition')")) is None:
        raise NotDistributable(
            "This PostgreSQL has no Citus. As its superuser: CREATE EXTENSION citus (docs/scaling.md)"
        )
    places = "SELECT count(*) FROM pg_dist_node WHERE isactive AND noderole = 'primary' AND shouldhaveshards"
    if not await connection.scalar(text(places)):
        raise NotDistributable("Citus knows no worker. As the superuser: SELECT citus_add_node('host', 5432)")
    if await connection.scalar(text("SELECT groupid FROM pg_dist_local_group")) != 0:
        raise NotDistributable("This is a worker of Citus. Set DATABASE_URL to its coordinator")


async def place(connection: AsyncConnection, new: Sequence[Table], keys: Sequence[Key], shards: int) -> None:
    """Put the owner into the keys of these tables, and distribute them."""
    tables = {table.name: table for table in new}
    guarded = [table for table in new if table.is_guarded]
    keys = [key for key in keys if key.table in tables]
    foreign = [key for key in keys if key.kind == "f"]
    for key in foreign:
        await run(connection, f'ALTER TABLE "{key.table}" DROP CONSTRAINT "{key.name}"')
    for key in keys:
        await widen(connection, key, tables[key.table])
    await run(connection, 'DROP INDEX IF EXISTS "uq_turns_owner"')  # the widened primary key is the same
    for table in guarded:  # COPY is refused to a role for which the policies hold
        await run(connection, f'ALTER TABLE "{table.name}" NO FORCE ROW LEVEL SECURITY')
    for table in new:
        await run(connection, placing(table, shards))
    for key in foreign:
        # Citus has none from a reference table, and none with SET NULL: see `conversations.deletion.let_go_of_files`.
        if key.table not in REFERENCES and not key.sets_null:
            await run(connection, f'ALTER TABLE "{key.table}" ADD CONSTRAINT "{key.name}" {key.definition}')
    for table in guarded:
        await run(connection, f'ALTER TABLE "{table.name}" FORCE ROW LEVEL SECURITY')


async def widen(connection: AsyncConnection, key: Key, table: Table) -> None:
    """Put the owner into a key without it, at its end, since everybody's rows are walked by the key as it was."""
    if key.kind == "f" or table.name in REFERENCES or table.owner in key.columns:
        return
    kind = "PRIMARY KEY" if key.kind == "p" else "UNIQUE"
    columns = ", ".join(f'"{column}"' for column in [*key.columns, table.owner])
    await run(connection, f'ALTER TABLE "{key.table}" DROP CONSTRAINT "{key.name}"')
    await run(connection, f'ALTER TABLE "{key.table}" ADD CONSTRAINT "{key.name}" {kind} ({columns})')


def placing(table: Table, shards: int) -> str:
    if table.name in REFERENCES:
        return f"SELECT create_reference_table('{table.name}')"
    how = (
        f"shard_count := {shards}, colocate_with := 'none'"
        if table.name == ROOT
        else f"colocate_with := '{ROOT}'"
    )
    return f"SELECT create_distributed_table('{table.name}', '{table.owner}', {how})"


async def check_owner_arrives(connection: AsyncConnection) -> None:
    """Raise `NotDistributable` unless a worker sees whose rows a transaction may read and write; leaves nothing behind."""
    probe = "'chatapi: a probe of row-level security'"
    trying = await connection.begin_nested()
    await run(connection, passed_on(PROPAGATION, "local"))
    await run(connection, f"SET LOCAL chatapi.user_id = {probe}")
    try:
        await run(connection, f"INSERT INTO {ROOT} (id, created_at) VALUES ({probe}, statement_timestamp())")  # noqa: S608 - names of ours
        seen = await connection.scalar(text(f"SELECT count(*) FROM {ROOT} WHERE id = {probe}"))  # noqa: S608 - as before
    except DBAPIError as error:
        raise NotDistributable(
            f"Row-level security does not work on the workers: {cause_of(error)}"
        ) from error
    if seen != 1:
        raise NotDistributable(
            "Row-level security does not work on the workers: a row is hidden from its owner"
        )
    await trying.rollback()


async def report(connection: AsyncConnection, tables: Mapping[str, Table]) -> list[str]:
    """Check where the tables are, and say so. Raises `NotDistributable` if they are not together."""
    found = {row.name: row for row in (await connection.execute(text(PLACED))).all()}
    lines = []
    groups = set()
    for table in tables.values():
        row = found.get(table.name)
        if table.name in REFERENCES:
            if row is None or row.method != "n":
                raise NotDistributable(f"{table.name} is not a reference table")
            lines.append(f"{table.name}: on every machine")
        elif table.owner is not None:
            if row is None or row.method != "h":
                raise NotDistributable(f"{table.name} is not distributed")
            groups.add(row.colocation)
            lines.append(f"{table.name}: by {table.owner}, {row.shards} shards")
        else:
            lines.append(f"{table.name}: on the coordinator alone")
    if len(groups) != 1:
        raise NotDistributable("The tables' shards are not together")
    return lines


async def count(connection: AsyncConnection, table: str) -> int:
    """Everybody's rows."""
    await run(connection, passed_on(PROPAGATION, "local"))
    await run(connection, passed_on("chatapi.everyone", "on"))
    found: int = await connection.scalar(text(f'SELECT count(*) FROM "{table}"'))  # noqa: S608 - a name of the catalogue
    await run(connection, passed_on("chatapi.everyone", ""))
    return found


async def rows(connection: AsyncConnection, statement: str, kind: type[RowT]) -> list[RowT]:
    return [kind(*row) for row in await connection.execute(text(statement))]


async def run(connection: AsyncConnection, statement: str) -> None:
    await connection.exec_driver_sql(statement)
