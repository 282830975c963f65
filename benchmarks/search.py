"""What a search costs: pages beside a million messages of others against one neighbour on each side, and time by size."""

import asyncio
import itertools
import json
import random
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import asyncpg
from sqlalchemy.dialects.postgresql import asyncpg as dialect

from benchmarks import servers
from benchmarks.measuring import Row
from chatapi.conversations.search.folding import fold, needles_of
from chatapi.conversations.search.service import SearchService, matching
from chatapi.db.database import Database
from chatapi.db.paging import MAX_ID
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from tests.support.databases import open_database
from tests.support.postgres import Postgres
from tests.support.serving import settings_for

MOMENT = datetime(2026, 11, 29, tzinfo=UTC)
SIZES = {"m500": 500, "m5000": 5_000, "m50000": 50_000}
OTHERS, OF_OTHERS = 2_000, 1_000_000
WORDS = 47  # a message, as people and models write by turns
TIMES = 15
QUERIES = {
    "rare": "word50000",
    "common": "word300",
    "very common": "word1",
    "two very common": "word1 word2",
    "prefix": "wo",
    "phrase": '"word1 word2"',
}
# Made as a plan for all values, without bitmaps: as the service does.
SETTINGS = "SET plan_cache_mode = force_generic_plan; SET enable_bitmapscan = off"


def scenario(postgres: Postgres) -> list[Row]:
    return asyncio.run(measured(postgres))


async def measured(postgres: Postgres) -> list[Row]:
    rows = []
    texts = some_texts()
    crowd = {f"{'az'[number % 2]}{number}": OF_OTHERS // OTHERS for number in range(OTHERS)}
    crowded = await filled(postgres, {**SIZES, **crowd}, texts)
    beside = {name: await pages(postgres, crowded, name) for name in SIZES}
    for name, size in SIZES.items():
        small = await filled(postgres, {name: size, "a": size, "z": size}, texts)
        with_neighbours = await pages(postgres, small, name)
        await asyncio.to_thread(postgres.drop, small)
        worst = max(beside[name][query] / with_neighbours[query] for query in QUERIES)
        rows.append(
            Row(
                f"pages of a search in {size:,} messages, with two neighbours and among a million of others",
                f"{max(with_neighbours.values()):,}, {max(beside[name].values()):,}: {worst:.2f} x",
                "≤ 1.3",
                worst <= 1.3,
            )
        )
    database = open_database(settings_for(postgres.url(crowded)))
    rows += [Row(f"PostgreSQL: {what}", value) for what, value in await times(database)]
    await database.close()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chatapi.db"
        settings = settings_for(f"sqlite:///{path}")
        await asyncio.to_thread(upgrade, settings, Patience())
        fill_sqlite(path, texts)
        database = open_database(settings)
        rows += [Row(f"SQLite: {what}", value) for what, value in await times(database)]
        await database.close()
    return rows


def some_texts() -> Sequence[str]:
    """Texts by Zipf's law; there are fewer than messages, so that making them takes seconds."""
    words = [f"word{number}" for number in range(1, 60_001)]
    weights = list(itertools.accumulate(1 / number**1.05 for number in range(1, 60_001)))
    chosen = random.Random(1)
    return [" ".join(chosen.choices(words, cum_weights=weights, k=WORDS)) for _ in range(10_000)]


def by_turns(counts: dict[str, int], texts: Sequence[str]) -> Iterator[tuple[str, int, int, str]]:
    """Owner, conversation, id and text of each message, in the order of time: everybody speaks from first to last."""
    speakers = [(number / count, user) for user, count in counts.items() for number in range(count)]
    speakers.sort()
    conversations = {user: number for number, user in enumerate(counts, start=1)}
    for id_, (_, user) in enumerate(speakers, start=1):
        yield user, conversations[user], id_, texts[id_ * 7_919 % len(texts)]


async def filled(postgres: Postgres, counts: dict[str, int], texts: Sequence[str]) -> str:
    """A database in which these users have said so much, by turns; the messages themselves are only of those measured."""
    name = await asyncio.to_thread(servers.migrated, postgres)
    await postgres.execute(
        f"ALTER DATABASE {name} OWNER TO chatapi; GRANT ALL ON ALL TABLES IN SCHEMA public TO chatapi", name
    )
    connection = await asyncpg.connect(postgres.url(name, role="postgres"))
    users = [(user,) for user in counts]
    await connection.copy_records_to_table(
        "users", records=[(user, MOMENT) for (user,) in users], columns=["id", "created_at"]
    )
    await connection.copy_records_to_table(
        "conversations",
        records=[(number, user, MOMENT, MOMENT) for number, (user,) in enumerate(users, start=1)],
        columns=["id", "user_id", "created_at", "updated_at"],
    )
    await connection.copy_records_to_table(
        "turns",
        records=[
            (number, user, number, "completed", "w", user, False, "m", MOMENT)
            for number, (user,) in enumerate(users, start=1)
        ],
        columns=[
            "id",
            "user_id",
            "conversation_id",
            "status",
            "worker_id",
            "run_id",
            "cancel_requested",
            "model",
            "created_at",
        ],
    )
    folded = {text: fold(text) for text in texts}
    await connection.copy_records_to_table(
        "search_text",
        records=(
            (user, conversation, id_, 0, folded[text])
            for user, conversation, id_, text in by_turns(counts, texts)
        ),
        columns=["user_id", "conversation_id", "message_id", "part", "words"],
    )
    await connection.copy_records_to_table(
        "messages",
        records=(
            (id_, user, conversation, conversation, "user", text, "[]", MOMENT)
            for user, conversation, id_, text in by_turns(counts, texts)
            if user in SIZES
        ),
        columns=[
            "id",
            "user_id",
            "conversation_id",
            "turn_id",
            "role",
            "content",
            "tool_calls",
            "created_at",
        ],
    )
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    return name


async def pages(postgres: Postgres, name: str, user: str) -> dict[str, int]:
    """Pages that each query looks at, as a role under row-level security."""
    connection = await asyncpg.connect(postgres.url(name))
    await connection.execute(SETTINGS)
    await connection.execute("SELECT set_config('chatapi.user_id', $1, false)", user)
    found = {}
    for query, words in QUERIES.items():
        compiled = matching(user, needles_of(words), None, MAX_ID).compile(
            dialect=dialect.dialect(),  # type: ignore[no-untyped-call]
            compile_kwargs={"render_postcompile": True},
        )
        values = [compiled.params[parameter] for parameter in compiled.positiontup or []]
        given = ", ".join(f"'{value}'" for value in values)
        await connection.execute(f"PREPARE search AS {compiled}")
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE search ({given})"
        )
        await connection.execute("DEALLOCATE search")
        plan = json.loads(explained)[0]["Plan"]
        found[query] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    await connection.close()
    return found


async def times(database: Database) -> list[tuple[str, str]]:
    """The median time of a page of twenty, with its snippets."""
    rows = []
    for user, size in SIZES.items():
        found = {}
        for query, words in QUERIES.items():
            seconds = []
            for _ in range(TIMES):
                began = perf_counter()
                async with database.transaction(user, reads_only=True) as session:
                    await SearchService(session).search(user, words, limit=20, seconds=60)
                seconds.append(perf_counter() - began)
            found[query] = median(seconds)
        shown = ", ".join(f"{query} {seconds * 1_000:.1f}" for query, seconds in found.items())
        rows.append((f"a search in {size:,} messages", f"{shown} ms"))
    return rows


def fill_sqlite(path: Path, texts: Sequence[str]) -> None:
    connection = sqlite3.connect(path)
    moment = "2026-11-29 00:00:00.000000"
    users = [(number, user, moment) for number, user in enumerate(SIZES, start=1)]
    connection.executemany("INSERT INTO users (id, created_at) VALUES (?2, ?3)", users)
    connection.executemany(
        "INSERT INTO conversations (id, user_id, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)", users
    )
    connection.executemany(
        "INSERT INTO turns (id, user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at) "
        "VALUES (?1, ?2, ?1, 'completed', 'w', ?2, 0, 'm', ?3)",
        users,
    )
    said = [(*message, moment) for message in by_turns(SIZES, texts)]
    words = [(*key, fold(text)) for *key, text in by_turns(SIZES, texts)]
    connection.executemany(
        "INSERT INTO messages (id, user_id, conversation_id, turn_id, role, content, tool_calls, created_at) "
        "VALUES (?3, ?1, ?2, ?2, 'user', ?4, '[]', ?5)",
        said,
    )
    connection.executemany("INSERT INTO search_text VALUES (?1, ?2, ?3, 0, ?4)", words)
    connection.commit()
    connection.close()
