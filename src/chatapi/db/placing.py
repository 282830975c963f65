"""Where tables are that may be distributed over machines; for migrations, too."""

from sqlalchemy import Connection, text

ROOT = "users"
# Copied to every machine, because each shard asks for them, or because their rows are looked for before the owner is known.
REFERENCES = ("workers", "api_keys")


def is_distributed(connection: Connection) -> bool:
    """Whether the tables are distributed; false where there is no Citus."""
    if connection.scalar(text("SELECT to_regclass('pg_catalog.pg_dist_partition')")) is None:
        return False
    found = "SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = to_regclass(:root)"
    return bool(connection.scalar(text(found), {"root": ROOT}))


def place_new(connection: Connection, table: str) -> None:
    """Put a table that a migration has just made, still without foreign keys, where the others are, by its `user_id`."""
    if connection.dialect.name == "postgresql" and is_distributed(connection):
        place = "SELECT create_distributed_table(:table, 'user_id', colocate_with := :root)"
        connection.execute(text(place), {"table": table, "root": ROOT})
