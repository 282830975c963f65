"""Approved calls are made once, though the process that asked dies, and so does the one that makes them."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from msgspec import Struct
from sqlalchemy import text

from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE
from tests.chaos.harness import Fleet
from tests.support.databases import open_database
from tests.support.serving import Client, execute, settings_for, takes_statements
from tests.support.sse import STREAM, chunks_of, text_of

pytestmark = pytest.mark.slow

TURNS = 25  # at once in each round of kills
ROUNDS = 2  # on each of the two databases, so that 100 turns meet two kills each
TOGETHER = 10  # turns that are answered at both replicas at once
PATIENCE = 30.0

# The lease of a replica that was killed is over at once, so that no round waits for its end.
LEASES_END = (
    "UPDATE turns SET worker_id = 'one that died' WHERE status = 'running' AND worker_id <> 'waiting'"
)
# PostgreSQL is in the middle of an effect for a while; SQLite's are too short for that, and queue instead.
SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(random() * 0.2); RETURN NEW; END $$
"""
SLOW_EFFECTS = "CREATE TRIGGER slowly AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION slowly()"


class Asked(Struct, frozen=True):
    """A turn that waits for the approval of a task with this title; `key` is that of its answer."""

    user_id: str
    conversation_id: int
    turn_id: int
    title: str
    approval: str
    key: str

    @property
    def path(self) -> str:
        return f"/api/{self.user_id}/turns/{self.turn_id}/answers"

    @property
    def request(self) -> dict[str, Any]:
        return {
            "json": {"answers": [{"id": self.approval, "approved": True}]},
            "headers": {"Idempotency-Key": self.key},
        }


async def ask(url: str) -> Asked:
    title, user_id = uuid4().hex, f"user-{uuid4().hex}"
    async with Client(url, user_id) as client:
        response = await client.chat(f'ask add_task {{"title": "{title}"}}\nwait\nsleep 0.02\nsay {title}')
    assert response.status_code == 202, response.text
    waiting = response.json()
    (pending,) = waiting["pending"]
    return Asked(user_id, waiting["conversation_id"], waiting["turn_id"], title, pending["id"], uuid4().hex)


async def approve(url: str, asked: Asked) -> bytes | str:
    """The answer, or why there is none."""
    async with Client(url, asked.user_id) as client:
        try:
            response = await client.post(asked.path, **asked.request, timeout=PATIENCE)
        except httpx.TransportError as error:
            return type(error).__name__
    return response.content if response.status_code == 200 else str(response.status_code)


async def approve_until_answered(url: str, asked: Asked) -> bytes:
    async with asyncio.timeout(PATIENCE):
        while not isinstance(answer := await approve(url, asked), bytes):
            assert answer in {"502", "503"}, answer
            await asyncio.sleep(0.05)
    return answer


@pytest.fixture(scope="module")
async def url(new_database: Callable[[], str]) -> str:
    """The database's."""
    made = await asyncio.to_thread(new_database)
    if takes_statements(made):  # Citus has no triggers on its tables
        await execute(made, SLOWLY)
        await execute(made, SLOW_EFFECTS)
    return made


@pytest.fixture(scope="module")
async def database(url: str) -> AsyncIterator[Database]:
    opened = open_database(settings_for(url))
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
async def fleet(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    replicas = Fleet(tmp_path_factory.mktemp("fleet"), url, TOOL_APPROVAL="all")
    await replicas.start()
    yield replicas
    await replicas.stop()


COUNT = (
    "SELECT (SELECT count(*) FROM tasks WHERE user_id = :user_id AND title = :title), "
    "(SELECT count(*) FROM tool_calls WHERE user_id = :user_id AND turn_id = :turn_id), "
    "(SELECT count(*) FROM messages WHERE user_id = :user_id AND turn_id = :turn_id), "
    "(SELECT status FROM turns WHERE user_id = :user_id AND id = :turn_id)"
)


async def counts(database: Database, turns: Sequence[Asked]) -> Counter[tuple[Any, ...]]:
    """How many turns have so many effects, entries in the journal and messages, and this status."""
    async with database.transaction(EVERYONE, reads_only=True) as session:
        rows = [(await session.execute(text(COUNT), msgspec.structs.asdict(each))).one() for each in turns]
    return Counter(tuple(row) for row in rows)


async def first_effect(database: Database, turns: Sequence[Asked]) -> None:
    """Wait until one of the calls was made; the others are being made."""
    async with asyncio.timeout(PATIENCE):
        while set(await counts(database, turns)) <= {(0, 0, 2, "running")}:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0)


async def test_what_was_approved_happens_once_whatever_dies(
    fleet: Fleet, url: str, database: Database
) -> None:
    """Asked, killed; answered elsewhere, killed in the middle of the effect; sent again with the key."""
    here, there = fleet.urls
    answered: list[Asked] = []
    cut: Counter[tuple[Any, ...]] = Counter()
    for _ in range(ROUNDS):
        turns = await asyncio.gather(*(ask(here) for _ in range(TURNS)))
        await fleet.kill_one()  # the one that was asked
        answering = [asyncio.create_task(approve(there, each)) for each in turns]
        await first_effect(database, turns)
        await fleet.kill_one()  # the one that carries out
        await asyncio.gather(*answering)
        cut += await counts(database, turns)
        await execute(url, LEASES_END)
        bodies = await asyncio.gather(*(approve_until_answered(here, each) for each in turns))
        again = await asyncio.gather(*(approve_until_answered(there, each) for each in turns))
        assert again == bodies
        for each, body in zip(turns, bodies, strict=True):
            assert msgspec.json.decode(body)["response"] == f"add_task: done. {each.title}"
        answered += turns
    print(f"\nas the kills left them: {dict(cut)}", file=sys.stderr)
    assert await counts(database, answered) == {(1, 1, 2, "completed"): ROUNDS * TURNS}


async def test_of_two_replicas_that_are_answered_at_once_one_follows_the_other(
    fleet: Fleet, database: Database
) -> None:
    here, there = fleet.urls
    turns = await asyncio.gather(*(ask(here) for _ in range(TOGETHER)))

    async def approve_streaming(asked: Asked) -> str:
        async with (
            Client(there, asked.user_id) as client,
            client.stream(
                "POST",
                asked.path,
                json=asked.request["json"],
                headers={**asked.request["headers"], **STREAM},
            ) as response,
        ):
            return text_of([chunk async for chunk in chunks_of(response, goes_on=True)])

    bodies, texts = await asyncio.gather(
        asyncio.gather(*(approve_until_answered(here, each) for each in turns)),
        asyncio.gather(*(approve_streaming(each) for each in turns)),
    )
    assert texts == [msgspec.json.decode(body)["response"] for body in bodies]
    assert await counts(database, turns) == {(1, 1, 2, "completed"): TOGETHER}
