"""Foreign keys that a migration replaces on tables that may be large, while others read and write them."""

import logging
import time

from alembic import op
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from chatapi.db.failures import sqlstate_of
from chatapi.settings import SettingsError

log = logging.getLogger(__name__)

# While somebody waits for a table's lock, all others queue behind. It is more than the second (`deadlock_timeout`) after which
# PostgreSQL ends an autovacuum that is in the way.
LOCK_TIMEOUT = "1500ms"
PAUSE = 10  # seconds between two tries, in which nobody queues
TRIES = 50  # some ten minutes, as for the build of an index (`migrations/env.py`): a dump may take as long
# The lock could not be had in time; or somebody had one of two tables and waited for the other (deadlock_detected).
NOT_YET = {"55P03", "40P01"}
VIOLATED = "23503"


def replace_foreign_key(table: str, target: str, old: str, new: str, definition: str) -> None:
    """Put a foreign key to `target`, as in `FOREIGN KEY (a) REFERENCES target (b)`, in the place of another, on PostgreSQL.

    Each step is a transaction of its own, and can be repeated. Two steps keep others off the tables, and are done in a moment: the
    new key holds for rows that are written from then on; the old one goes. The long one between them, in which all rows
    are checked, keeps nobody from reading and writing. Until it is done both keys hold.
    """
    with op.get_context().autocommit_block():
        names = {key["name"] for key in inspect(op.get_bind()).get_foreign_keys(table)}
        # The target first, as in transactions that write both: else they would wait for each other.
        lock = f"LOCK TABLE {target}, {table} IN {{}} MODE"
        if new not in names:
            add = f"ALTER TABLE {table} ADD CONSTRAINT {new} {definition} NOT VALID"
            run_briefly(lock.format("SHARE ROW EXCLUSIVE"), add)
        check_rows(table, new)
        if old in names:
            run_briefly(lock.format("ACCESS EXCLUSIVE"), f"ALTER TABLE {table} DROP CONSTRAINT {old}")


def check_rows(table: str, name: str) -> None:
    """Raise `SettingsError` if a row violates the new key; the old one stays then, beside the new one.

    Row-level security hides rows from this check, too, and it would pass.
    """
    try:
        run_together(
            "PERFORM set_config('chatapi.everyone', 'on', true)",
            f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}",
        )
    except DBAPIError as error:
        if sqlstate_of(error) != VIOLATED:
            raise
        raise SettingsError(
            f"DATABASE_URL: the table {table} has rows that violate {name}. Mend or delete them, and upgrade again "
            "(docs/scaling.md tells how to find them)"
        ) from error


def run_briefly(lock: str, command: str) -> None:
    """Run a command that needs this lock. While others hold a table for longer than a moment, try again and again."""
    for tries_left in reversed(range(TRIES)):
        try:
            run_together(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'", lock, command)
        except DBAPIError as error:
            if sqlstate_of(error) not in NOT_YET or not tries_left:
                raise
            if tries_left == TRIES - 1:
                log.warning(
                    "Waiting for a transaction that holds a table; others wait now and then: %s", command
                )
            time.sleep(PAUSE)
        else:
            return


def run_together(*commands: str) -> None:
    """Run commands as one transaction, which they are by being one statement."""
    op.execute(f"DO $$ BEGIN {'; '.join(commands)}; END $$")
