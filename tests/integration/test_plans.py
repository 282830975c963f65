"""A guard against plans that read what they need not: pages of memory, counted by PostgreSQL, and no times."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import asyncpg
import pytest
from sqlalchemy import event, func, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.budgets import parse_budgets
from chatapi.conversations.forms import PLAIN
from chatapi.conversations.search.service import SearchService
from chatapi.conversations.service import ConversationService
from chatapi.db.alternatives import is_answered_or_under_way, superseded
from chatapi.db.autocommit import Statement
from chatapi.db.database import Database
from chatapi.db.engine import BITMAPS
from chatapi.db.models import Conversation, User, now
from chatapi.db.owner import EVERYONE, USER_ID
from chatapi.db.paging import MAX_ID
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from chatapi.turns.store.busy import standing_of
from chatapi.turns.store.history import select_history
from chatapi.turns.store.postgres import begin_next
from chatapi.turns.store.rows import Claim
from chatapi.turns.store.window import edge_of
from chatapi.usage.budgets import NO_BUDGETS, Budgets
from chatapi.usage.counting import CONVERSATION_ID
from tests.support.databases import open_database
from tests.support.postgres import ROLE, Postgres
from tests.support.serving import settings_for

TURNS = 3_000
MANY_TURNS = 20_000  # whose messages are 700 pages
PAGES = 250  # ten turns and their messages are some 60, with what a begin writes 120; all of the user's are thousands

FILL = """
WITH turn AS (
  INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at)
  SELECT $1, $2, CASE WHEN n % 4 = 0 THEN 'cancelled' ELSE 'completed' END, 'w', $2::bigint || '-' || n, false, 'm', now()
  FROM generate_series(1, $3::int) n RETURNING id
)
INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
SELECT $1, $2, id, role, 'Something that was said.', '[]', now()
FROM turn CROSS JOIN (VALUES ('user'), ('assistant')) AS side (role)
"""
# Four hundred days of everybody's with three models.
USED = """
INSERT INTO usage_days SELECT users.id, current_date - n, model, 1, 1, 1, 1, 1, 1
FROM users, generate_series(0, 399) n, (VALUES ('a'), ('b'), ('c')) AS models (model)
"""
BUDGETS = Budgets([*parse_budgets("tokens", "1000000/day,1000000/month"), *parse_budgets("cost", "1/month")])
# A turn of everybody, and then the next of everybody.
FILL_BY_TURNS = """
WITH turn AS (
  INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at)
  SELECT user_id, id, 'completed', 'w', user_id || '-' || n, false, 'm', now()
  FROM generate_series(1, $1::int) n CROSS JOIN conversations ORDER BY n, id RETURNING id, user_id, conversation_id
)
INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
SELECT user_id, conversation_id, id, role, 'Something that was said.', '[]', now()
FROM turn CROSS JOIN (VALUES ('user'), ('assistant')) AS side (role)
"""
CONVERSATION = """
INSERT INTO conversations (user_id, created_at, updated_at) VALUES ($1, now(), now()) RETURNING id
"""


@pytest.fixture(params=["postgres", ROLE])
def role(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=["unknown", "known", "one of many", "beside a large one"])
async def populated(request: pytest.FixtureRequest, postgres: Postgres) -> str:
    """A database of users who have said little, and of one whom its statistics do not know yet, or all too well.

    Or one of many, who have all said as much: of these PostgreSQL expects three turns in a conversation that has
    hundreds, because it multiplies how rare the user is and how rare the conversation, and one tells the other.

    Or one with a small conversation beside a large one: a plan for both expects half of all messages in each, and
    thinks that the latest of a conversation are soon found among the latest of all.
    """
    name = await asyncio.to_thread(postgres.new_database)
    admin = await asyncpg.connect(postgres.url(name, role="postgres"))
    if request.param == "one of many":
        for user_id in ["large", *(f"other-{number}" for number in range(60))]:
            await begin(admin, user_id)
        await admin.execute(FILL_BY_TURNS, 300)
        await admin.execute("ANALYZE")
    elif request.param == "beside a large one":
        await fill(admin, "large", 10)
        conversation_id = await admin.fetchval(CONVERSATION, "large")
        await admin.execute(FILL, "large", conversation_id, MANY_TURNS)
        await admin.execute("VACUUM ANALYZE")
    else:
        for number in range(20):
            await fill(admin, f"small-{number}", 2)
        await admin.execute("ANALYZE")
        await fill(admin, "large", TURNS)
        if request.param == "known":
            await admin.execute("ANALYZE")
    await admin.execute(USED)
    await admin.close()
    return name


@pytest.fixture
async def connection(postgres: Postgres, populated: str, role: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.url(populated, role=role))
    await connection.execute(f"SET {BITMAPS} = off")
    yield connection
    await connection.close()


def sent_by(database: Database) -> list[tuple[str, Sequence[Any]]]:
    """The statements that the database is sent from now on, with their parameters."""
    sent: list[tuple[str, Sequence[Any]]] = []
    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda _, __, sql, parameters, *___: sent.append((sql, parameters)),
    )
    return sent


def url_of(connection: asyncpg.Connection) -> str:
    """Where a service would connect to what this is connected to."""
    parameters, (host, port) = connection._params, connection._addr
    return f"postgresql://{parameters.user}@{host}:{port}/{parameters.database}"


async def begin(connection: asyncpg.Connection, user_id: str) -> int:
    """A conversation of a new user."""
    await connection.execute("INSERT INTO users (id, created_at) VALUES ($1, now())", user_id)
    conversation_id: int = await connection.fetchval(CONVERSATION, user_id)
    return conversation_id


async def fill(connection: asyncpg.Connection, user_id: str, turns: int) -> None:
    await connection.execute(FILL, user_id, await begin(connection, user_id), turns)


async def conversation_of_large(connection: asyncpg.Connection) -> int:
    async with connection.transaction():
        await connection.execute("SELECT set_config('chatapi.user_id', 'large', true)")
        conversation_id: int = await connection.fetchval(
            "SELECT min(id) FROM conversations WHERE user_id = 'large'"
        )
    return conversation_id


async def pages(connection: asyncpg.Connection, statement: Statement, plan: str) -> int:
    """How many pages the statement looks at for the user who has said much."""
    conversation_id = await conversation_of_large(connection)
    last = await connection.fetchval(
        "SELECT max(id) FROM turns WHERE user_id = 'large' AND conversation_id = $1", conversation_id
    )
    values: dict[str, Any] = dict.fromkeys(
        ("key", "request_hash", "asked", "before", "source"), None
    ) | dict.fromkeys(("worker_id", "run_id", "model", "content"), "x")
    values |= {"search_parts": "{0}", "search_words": '{" x "}'}
    values |= {"after": last}
    values |= {"user_id": "large", "conversation_id": conversation_id, "now": now(), **BUDGETS.values(now())}
    sql, names = statement.compiled
    return await pages_of(connection, sql, [values[name] for name in names], plan)


async def pages_of(connection: asyncpg.Connection, sql: str, parameters: Sequence[Any], plan: str) -> int:
    await connection.execute(f"SET plan_cache_mode = force_{plan}_plan")
    await connection.execute(f"PREPARE statement AS {sql}")
    given = ", ".join("NULL" if value is None else f"'{value}'" for value in parameters)
    trying = connection.transaction()
    await trying.start()
    rows = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE statement ({given})")
    await trying.rollback()  # so that the next test finds what this one found
    (explained,) = json.loads(rows)
    assert explained["Plan"]["Actual Rows"] >= 20
    return sum(explained["Plan"][f"Shared {kind} Blocks"] for kind in ("Hit", "Read"))


@pytest.mark.parametrize("plan", ["custom", "generic"])
class TestOfAUserWhoHasSaidMuch:
    @pytest.fixture
    async def own(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT set_config('chatapi.user_id', 'large', false)")

    @pytest.mark.usefixtures("own")
    async def test_history_is_read_by_its_turns(self, connection: asyncpg.Connection, plan: str) -> None:
        history = Statement(
            select_history(
                USER_ID, CONVERSATION_ID, turns=10, before=MAX_ID, edge=edge_of(USER_ID, CONVERSATION_ID)
            )
        )
        assert await pages(connection, history, plan) < PAGES

    @pytest.mark.parametrize("keyed", [False, True])
    async def test_a_turn_begins_without_reading_all_that_was_said(
        self, connection: asyncpg.Connection, plan: str, keyed: bool
    ) -> None:
        """Nor before its owner is set, whatever the plan: row-level security would hide it all. Nor all that was used."""
        statement = begin_next(10, NO_BUDGETS if keyed else BUDGETS, keyed=keyed, after=keyed)
        assert await pages(connection, statement, plan) < PAGES

    @pytest.mark.usefixtures("own")
    async def test_nor_does_one_that_begins_by_plain_statements(
        self, connection: asyncpg.Connection, plan: str
    ) -> None:
        database = open_database(settings_for(url_of(connection)))
        sent = sent_by(database)
        conversation_id = await conversation_of_large(connection)
        claim = Claim(run_id="r", worker_id="w", model="m", history=10, budgets=BUDGETS)
        async with database.transaction("large") as session:
            await standing_of(session, "large", conversation_id, claim, before=MAX_ID)
        await database.close()
        assert await pages_of(connection, *sent[-1], plan) < PAGES

    @pytest.mark.usefixtures("own")
    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_a_page_of_messages_is_read_as_such(
        self, connection: asyncpg.Connection, plan: str, order: Literal["asc", "desc"]
    ) -> None:
        database = open_database(settings_for(url_of(connection)))
        sent = sent_by(database)
        conversation_id = await conversation_of_large(connection)
        async with database.transaction("large") as session:
            page = await ConversationService(session).messages(
                "large", conversation_id, PLAIN, limit=20, cursor=None, order=order
            )
            assert not session.identity_map  # to make an object of each row takes as long again
        await database.close()
        assert len(page.items) == 20
        assert await pages_of(connection, *sent[-1], plan) < PAGES


def test_what_finds_superseded_turns_is_built_once() -> None:
    """A quarter of a page's CPU goes into it otherwise."""
    assert superseded(is_answered_or_under_way) is superseded(is_answered_or_under_way)


SPOKEN = """
INSERT INTO search_text (user_id, conversation_id, message_id, part, words)
SELECT c.user_id, c.id, n * 1000 + c.id, 0, ' something that was said about number ' || n || repeat(' and more', 20) || ' '
FROM generate_series(1, 1500) n CROSS JOIN conversations c ORDER BY n, c.id
"""


async def search_pages(postgres: Postgres, role: str, others: int, query: str) -> int:
    """How many pages a search reads for a user with so many others on each side, who all have said as much by turns."""
    name = await asyncio.to_thread(postgres.new_database)
    admin = await asyncpg.connect(postgres.url(name, role="postgres"))
    for user_id in ["m", *(f"{side}{number}" for side in "az" for number in range(others))]:
        await begin(admin, user_id)
    await admin.execute(SPOKEN)
    await admin.execute("VACUUM ANALYZE")
    await admin.close()
    connection = await asyncpg.connect(postgres.url(name, role=role))
    await connection.execute(f"SET {BITMAPS} = off")
    await connection.execute("SELECT set_config('chatapi.user_id', 'm', false)")
    database = open_database(settings_for(url_of(connection)))
    sent = sent_by(database)
    async with database.transaction("m") as session:
        await SearchService(session).search("m", query, limit=20, seconds=60)
    await database.close()
    ((sql, parameters),) = [each for each in sent if "strpos" in each[0]]
    pages = await pages_of(connection, sql, parameters, "generic")
    await connection.close()
    return pages


@pytest.mark.parametrize("query", ["number", "number something sai"])
async def test_a_search_costs_the_same_beside_many_others(postgres: Postgres, role: str, query: str) -> None:
    """One scan of the owner's own rows in the index, under row-level security, too, and with a plan for all."""
    alone = await search_pages(postgres, role, 1, query)
    beside_others = await search_pages(postgres, role, 8, query)
    assert beside_others <= 1.3 * alone
    assert alone < 140  # half-full pages of eighteen rows


@pytest.mark.parametrize("archived", ["false", "any"])
async def test_a_page_of_conversations_is_read_in_the_order_of_its_index(
    postgres: Postgres, role: str, archived: Literal["false", "any"]
) -> None:
    """Of thousands, most of them archived, with the latest activity last in the table."""
    name = await asyncio.to_thread(postgres.new_database)
    connection = await asyncpg.connect(postgres.url(name, role="postgres"))
    await connection.execute("INSERT INTO users (id, created_at) VALUES ('large', now())")
    await connection.execute(
        "INSERT INTO conversations (user_id, created_at, updated_at, archived, pinned) "
        "SELECT 'large', now(), now() + n * interval '1 s', n % 10 > 0, n % 100 = 0 FROM generate_series(1, 5000) n"
    )
    await connection.execute("ANALYZE")
    await connection.close()
    connection = await asyncpg.connect(postgres.url(name, role=role))
    await connection.execute(f"SET {BITMAPS} = off")
    await connection.execute("SELECT set_config('chatapi.user_id', 'large', false)")
    database = open_database(settings_for(url_of(connection)))
    sent = sent_by(database)
    async with database.transaction("large") as session:
        page = await ConversationService(session).page("large", limit=20, cursor=None, archived=archived)
        cursor = page.next_cursor
        await ConversationService(session).page("large", limit=20, cursor=cursor, archived=archived)
    await database.close()
    for sql, parameters in sent:
        if "FROM conversations" in sql:
            assert await pages_of(connection, sql, parameters, "generic") < 60
            await connection.execute("DEALLOCATE statement")
    await connection.close()


@pytest.mark.parametrize(("pooler", "left"), [("", "off"), ("?pgbouncer=true", "on")])
async def test_no_transaction_takes_what_is_not_in_order(
    postgres: Postgres, role: str, pooler: str, left: str
) -> None:
    """Behind a pooler for as long as the transaction takes: the connection is another's after it."""
    name = await asyncio.to_thread(postgres.new_database)
    database = open_database(settings_for(postgres.url(name, role=role) + pooler))
    show = f"SHOW {BITMAPS}"

    async def ask(session: AsyncSession) -> str:
        return str(await session.scalar(text(show)))

    statement = Statement(select(func.current_setting(literal_column(f"'{BITMAPS}'"))))
    for owner in ("o'alice \u00e9", EVERYONE, None):
        assert await database.run(owner, ask) == "off"
        assert await database.statement(statement, {}) == [("off",)]
    async with database.engine.connect() as between:
        assert await between.scalar(text(show)) == left
    await database.close()


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("cursor", [None, "NTAw"])
async def test_sqlite_reads_a_page_of_messages_along_the_index_of_conversations(
    tmp_path: Path, order: Literal["asc", "desc"], cursor: str | None
) -> None:
    """From the page's first message on, also where a conversation has many, and without sorting."""
    settings = settings_for(f"sqlite:///{tmp_path / 'chatapi.db'}")
    await asyncio.to_thread(upgrade, settings, Patience())
    database = open_database(settings)
    async with database.transaction("alice") as session:
        for user_id in ("alice", "bob"):
            await session.execute(insert(User).values(id=user_id))
        await session.execute(insert(Conversation).values(id=1, user_id="alice"))
        sent = sent_by(database)
        await ConversationService(session).messages("alice", 1, PLAIN, limit=20, cursor=cursor, order=order)
    await database.close()
    explained = sqlite3.connect(tmp_path / "chatapi.db")
    first, *others = (row[3] for row in explained.execute(f"EXPLAIN QUERY PLAN {sent[-1][0]}", sent[-1][1]))
    explained.close()
    assert first == (
        "SEARCH messages USING INDEX ix_messages_conversation "
        "(user_id=? AND conversation_id=? AND id>? AND id<?)"
    )
    assert not [each for each in others if "SCAN" in each or "TEMP B-TREE" in each]
