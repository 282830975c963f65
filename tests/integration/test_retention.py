"""`chatapi retention`: what goes, what stays, and what is said of it."""

import asyncio
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from chatapi.conversations.deletion import Place
from chatapi.db.models import Conversation
from chatapi.db.owner import EVERYONE
from chatapi.turns import retention
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.serving import DIES, Client, command, execute, serve, settings_for


def run(directory: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(directory, url, "retention", *arguments)


async def age(url: str, conversation_id: int, days: int) -> None:
    """Let a conversation's last activity be this long ago."""
    database = open_database(settings_for(url))
    async with database.transaction(EVERYONE) as session:
        await session.execute(
            update(Conversation)
            .where(Conversation.id == conversation_id)
            .values(updated_at=datetime.now(UTC) - timedelta(days=days))
        )
    await database.close()


@pytest.mark.slow
async def test_deletes_what_is_old_and_says_so(empty_database_url: str, directory: Path) -> None:
    url = empty_database_url
    async with serve(settings_for(url)) as base, Client(base, "alice") as alice, Client(base, "bob") as bob:
        old = (await alice.said('call add_task {"title": "milk"}\nsay Done.'))["conversation_id"]
        young = (await alice.said("say Hello."))["conversation_id"]
        bobs = (await bob.said("say Hello."))["conversation_id"]
        await age(url, old, 91)
        await age(url, bobs, 1000)
        await age(url, young, 89)

        looked = await asyncio.to_thread(run, directory, url, "--older-than", "90d", "--dry-run")
        assert (looked.returncode, looked.stdout) == (0, ""), looked.stderr
        assert looked.stderr.endswith("would be deleted: 2\n")
        assert len((await bob.get(bob.mine("/conversations"))).json()["items"]) == 1

        done = await asyncio.to_thread(run, directory, url, "--older-than", "90d")
        assert done.returncode == 0, done.stderr
        assert done.stderr.endswith("deleted: 2\n")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(e["action"], e["outcome"], e["user_id"], e["conversation_id"]) for e in events] == [
            ("conversation.expired", "success", "alice", old),
            ("conversation.expired", "success", "bob", bobs),
        ]
        left = (await alice.get(alice.mine("/conversations"))).json()["items"]
        assert [conversation["id"] for conversation in left] == [young]
        assert (await bob.get(bob.mine(f"/conversations/{bobs}/messages"))).status_code == 404
        assert [task["title"] for task in (await alice.get(alice.mine("/tasks"))).json()["items"]] == ["milk"]

        again = await asyncio.to_thread(run, directory, url, "--older-than", "90d")
        assert (again.stdout, again.stderr.rsplit(": ", 1)[1]) == ("", "0\n")


@pytest.mark.slow
async def test_a_turn_under_way_keeps_its_conversation_and_an_abandoned_one_does_not(
    empty_database_url: str, directory: Path
) -> None:
    url = empty_database_url
    async with serve(settings_for(url)) as base, Client(base, "alice") as alice:
        gate = CommandedAgent.gates[name := uuid4().hex]
        turn = asyncio.create_task(alice.chat(f"gate {name}\nsay Done."))
        await gate.reached.wait()
        [conversation] = (await alice.get(alice.mine("/conversations"))).json()["items"]
        await age(url, conversation["id"], 91)
        kept = await asyncio.to_thread(run, directory, url, "--older-than", "90d")
        assert (kept.returncode, kept.stderr.rsplit(": ", 1)[1]) == (0, "0\n")
        gate.opened.set()
        assert (await turn).json()["response"] == "Done."

        dead = CommandedAgent.gates[other := uuid4().hex]
        abandoned = asyncio.create_task(alice.chat(f"gate {other}\nsay Done.", conversation["id"]))
        await dead.reached.wait()
        await execute(url, DIES)
        await age(url, conversation["id"], 91)
        gone = await asyncio.to_thread(run, directory, url, "--older-than", "90d")
        assert (gone.returncode, gone.stderr.rsplit(": ", 1)[1]) == (0, "1\n")
        dead.opened.set()
        assert (await abandoned).json()["type"] == "urn:chatapi:problem:turn-cancelled"


@pytest.mark.slow
async def test_turns_go_on_while_much_is_deleted_in_small_pieces(empty_database_url: str) -> None:
    """Several windows, batches and statements a batch; a turn that comes first keeps its conversation."""
    pieces = retention.Pieces(window=7, batch=3, turns=2)
    url = empty_database_url
    database = open_database(settings_for(url))
    async with serve(settings_for(url, rate_limit_chat="off")) as base, Client(base, "alice") as alice:
        kept = (await alice.said("say kept"))["conversation_id"]
        for _ in range(20):
            conversation_id = (await alice.said("say 1"))["conversation_id"]
            await alice.said("say 2", conversation_id)
            await alice.said("say 3", conversation_id)
        before = datetime.now(UTC)
        turns = asyncio.gather(*(alice.said(f"say {number}") for number in range(10)))
        await alice.said("say still here", kept)
        assert await retention.expire(database, before, pieces=pieces) == 20
        assert len({answer["conversation_id"] for answer in await turns}) == 10
        async with database.transaction(EVERYONE) as session:
            left = (await session.scalars(select(Conversation.id))).all()
        assert len(left) == 11
        assert kept in left
    await database.close()


async def test_a_conversation_that_was_gone_on_with_since_is_left_alone(empty_database_url: str) -> None:
    url = empty_database_url
    database = open_database(settings_for(url))
    async with serve(settings_for(url)) as base, Client(base, "alice") as alice:
        ids = [(await alice.said("say 1"))["conversation_id"] for _ in range(2)]
        places = [Place(id=id_, user_id="alice") for id_ in ids]
        before = datetime.now(UTC)
        await alice.said("say 2", ids[0])
        async with database.transaction(EVERYONE) as session:
            gone = await retention.delete_idle(session, places, before, retention.PIECES)
        assert [(each.id, each.user_id) for each in gone] == [(ids[1], "alice")]
        async with database.transaction(EVERYONE) as session:
            assert await retention.delete_idle(session, places, before, retention.PIECES) == []
    await database.close()


@pytest.mark.parametrize(
    ("age", "why"), [("23h", "idempotency keys"), ("999999d", "longer than there are dates")]
)
def test_less_than_a_day_or_more_than_all_time_is_refused(directory: Path, age: str, why: str) -> None:
    result = run(directory, "sqlite:///chatapi.db", "--older-than", age)
    assert result.returncode == 2
    assert why in " ".join(result.stderr.replace("│", " ").split())


def test_a_schema_that_is_not_there_and_a_database_that_is_away_are_said(directory: Path) -> None:
    for url, sentence in {
        "sqlite:///chatapi.db": "chatapi database upgrade --no-prompt",
        "postgresql://u@127.0.0.1:1/d": "DATABASE_URL: [Errno 111]",
    }.items():
        result = run(directory, url, "--older-than", "90d")
        assert result.returncode == 1
        assert sentence in " ".join(result.stderr.replace("│", " ").split())
        assert "Traceback" not in result.stderr
