"""deploy/partitioning.sql on a database that is in use, and the service on what it makes."""

import asyncio
import subprocess
from uuid import uuid4

import asyncpg
import pytest

from tests.support.agents import CommandedAgent
from tests.support.postgres import Postgres
from tests.support.serving import REPOSITORY, Client, serve, settings_for

pytestmark = pytest.mark.slow


async def test_the_service_runs_on_partitions_as_it_is(postgres: Postgres) -> None:
    url = postgres.url(await asyncio.to_thread(postgres.new_database))
    key = {"Idempotency-Key": uuid4().hex}
    async with serve(settings_for(url)) as base, Client(base, "alice") as alice, Client(base, "bob") as bob:
        before = await alice.chat('call add_task {"title": "milk"}\nsay Hello.', headers=key)
        conversation_id = before.json()["conversation_id"]
        await bob.said("say Hello.")

    script = REPOSITORY / "deploy/partitioning.sql"
    command = [str(postgres.programs / "psql"), url, "--set", "ON_ERROR_STOP=1", "--file", str(script)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    async with serve(settings_for(url)) as base, Client(base, "alice") as alice, Client(base, "bob") as bob:
        again = await alice.chat('call add_task {"title": "milk"}\nsay Hello.', headers=key)
        assert (again.content, again.headers["Idempotent-Replayed"]) == (before.content, "true")
        after = await alice.said("history", conversation_id)
        assert '["assistant", "add_task: done. Hello."]' in after["response"]
        assert after["message_id"] > before.json()["message_id"]

        gate = CommandedAgent.gates[name := uuid4().hex]
        turn = asyncio.create_task(
            alice.chat(f'call add_task {{"title": "eggs"}}\ngate {name}', conversation_id)
        )
        await gate.reached.wait()
        second = await alice.chat("say Me, too.", conversation_id)
        assert second.json()["type"] == "urn:chatapi:problem:turn-in-progress"
        cancelled = await alice.post(alice.mine(f"/turns/{second.json()['turn_id']}/cancel"))
        assert cancelled.status_code == 202
        assert (await turn).json()["type"] == "urn:chatapi:problem:turn-cancelled"

        assert (await bob.get(bob.mine("/tasks"))).json()["items"] == []
        export = (await alice.get(alice.mine("/export"))).text.splitlines()
        assert '"record":"end"' in export[-1]
        assert (await alice.delete(alice.mine("?confirm=alice"))).status_code == 204
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []
        assert len((await bob.get(bob.mine("/conversations"))).json()["items"]) == 1

    connection = await asyncpg.connect(url)
    plan = await connection.fetch(
        "EXPLAIN SELECT * FROM messages WHERE user_id = 'bob' AND conversation_id = 1 ORDER BY id"
    )
    read = {line.split(" on ")[1].split()[0] for (line,) in plan if " on messages" in line}
    assert len(read) == 1, "a user's messages are in one partition"
    assert await connection.fetchval("SELECT count(*) FROM messages") == 0, "nobody's rows without an owner"
    await connection.close()
