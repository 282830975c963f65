"""Backups taken under load and restored elsewhere, and users erased by hand: by the commands of the documents as they stand."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE
from chatapi.files.service import FileService
from chatapi.files.storage import Storage
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database, rows_of
from tests.support.documents import commands_under, looks_installed, run_commands
from tests.support.logs import heard
from tests.support.postgres import Postgres
from tests.support.serving import SECRET, Client, execute, serve, settings_for

pytestmark = pytest.mark.slow


class Place:
    """A database to be backed up, or to restore into, and how the document's commands find it."""

    def __init__(self, heading: str, url: str, directory: Path, environ: dict[str, str]) -> None:
        self.url = url
        self.heading = heading
        self.directory = directory
        self._environ = environ

    async def run(self, step: str, **environ: str) -> None:
        await self.run_from("backup.md", self.heading, step, **environ)

    async def run_from(self, document: str, *headings: str, **environ: str) -> None:
        commands = commands_under(document, *headings)
        assert commands
        await asyncio.to_thread(run_commands, commands, self.directory, {**self._environ, **environ})


def sqlite_places(directory: Path) -> tuple[Place, Place]:
    looks_installed(directory)
    data = directory / ".chatapi"
    data.mkdir()
    (data / "secret").write_text(SECRET)
    place = Place("SQLite", f"sqlite:///{data / 'chatapi.db'}", directory, {})
    return place, place


def postgresql_places(postgres: Postgres, directory: Path) -> tuple[Place, Place]:
    urls = [postgres.url(postgres.new_database(migrated=False)) for _ in range(2)]
    environ = {
        "PATH": f"{postgres.programs}:{os.environ['PATH']}",
        "DATABASE_URL": urls[0],
        "NEW_DATABASE_URL": urls[1],
    }
    return Place("PostgreSQL", urls[0], directory, environ), Place("PostgreSQL", urls[1], directory, environ)


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, directory: Path) -> tuple[Place, Place]:
    if request.param == "sqlite":
        return sqlite_places(directory)
    return postgresql_places(request.getfixturevalue("postgres"), directory)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = open_database(settings_for(url))
    yield database
    await database.close()


async def rows(url: str, statement: str) -> list[Any]:
    async with opened(url) as database, database.transaction(EVERYONE) as session:
        return [tuple(row) for row in await session.execute(text(statement))]


class Talker:
    """A user who says one thing after another, to keep the database busy."""

    def __init__(self, url: str, user_id: str) -> None:
        self.answers: list[dict[str, Any]] = []
        self.answered = asyncio.Event()
        self._url = url
        self._user_id = user_id

    async def talk(self, stop: asyncio.Event) -> None:
        conversation_id = None
        async with Client(self._url, self._user_id) as client:
            while not stop.is_set():
                answer = await client.said('call add_task {"title": "milk"}\nsay Done.', conversation_id)
                conversation_id = answer["conversation_id"]
                self.answers.append(answer)
                self.answered.set()


@asynccontextmanager
async def talkers(url: str) -> AsyncIterator[list[Talker]]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as talking:
        made = [Talker(url, f"talker-{number}") for number in range(3)]
        for talker in made:
            talking.create_task(talker.talk(stop))
        await asyncio.gather(*(talker.answered.wait() for talker in made))
        yield made
        stop.set()


async def test_a_backup_under_load_is_restored_whole(places: tuple[Place, Place]) -> None:
    source, target = places
    names = [uuid4().hex, uuid4().hex]
    gates = [CommandedAgent.gates[name] for name in names]
    answered_key, running_key = uuid4().hex, uuid4().hex
    running = f'call add_task {{"title": "eggs"}}\ngate {names[0]}\nsay Done.'

    async with (
        serve(settings_for(source.url, rate_limit_chat="off")) as url,  # a backup may take long
        Client(url, "alice") as alice,
        Client(url, "bob") as bob,
    ):
        answered = await alice.chat("say Hello.", headers={"Idempotency-Key": answered_key})
        alices = asyncio.create_task(alice.chat(running, headers={"Idempotency-Key": running_key}))
        bobs = asyncio.create_task(bob.chat(f"gate {names[1]}\nsay Done."))
        await asyncio.gather(*(gate.reached.wait() for gate in gates))
        async with talkers(url) as talking:
            said_before = {answer["turn_id"] for talker in talking for answer in talker.answers}
            await source.run("Back up")
        for gate in gates:
            gate.opened.set()
        alices_turn, bobs_turn = (await alices).json(), (await bobs).json()
        highest = max(answer["message_id"] for talker in talking for answer in talker.answers)

    await target.run("Restore")
    assert said_before <= {
        id_ for (id_,) in await rows(target.url, "SELECT id FROM turns WHERE status = 'completed'")
    }
    halves = "SELECT turn_id FROM messages JOIN turns ON turns.id = turn_id WHERE status = 'completed' GROUP BY turn_id HAVING count(*) <> 2"
    assert await rows(target.url, halves) == []
    await execute(target.url, "UPDATE workers SET lease_until = '2020-01-01 00:00:00+00:00'")  # 12 s later

    async with (
        serve(settings_for(target.url, migrate="off")) as url,
        Client(url, "alice") as alice,
        Client(url, "bob") as bob,
    ):
        assert (await alice.get("/health/ready")).status_code == 200
        again = await alice.chat("say Hello.", headers={"Idempotency-Key": answered_key})
        assert (again.content, again.headers["Idempotent-Replayed"]) == (answered.content, "true")

        taken_over = await alice.said_with({"headers": {"Idempotency-Key": running_key}}, running)
        assert taken_over["turn_id"] == alices_turn["turn_id"]
        assert len(await alice.messages(taken_over["conversation_id"])) == 2
        tasks = (await alice.get(alice.mine("/tasks"))).json()["items"]
        assert [task["title"] for task in tasks] == ["eggs"]

        assert (await bob.messages(bobs_turn["conversation_id"]))[-1]["status"] == "running"
        new = await bob.said("say On we go.", bobs_turn["conversation_id"])
        statuses = [message["status"] for message in await bob.messages(bobs_turn["conversation_id"])]
        assert statuses == ["failed", "completed", "completed"]
        assert new["message_id"] > highest
        for user_id in ("alice", "talker-0"):
            async with Client(url, user_id) as client:
                await client.said('call add_task {"title": "new"}\nsay Done.')
    if target.url.startswith("postgresql"):
        guarded = "SELECT count(*) FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        assert await rows(target.url, guarded) == [(16,)]


async def made_key(client: Client) -> dict[str, Any]:
    made: dict[str, Any] = (await client.post(client.mine("/keys"), json={"name": "a program"})).json()
    return made


async def test_ids_that_were_given_out_since_are_skipped_even_if_there_were_none_before(
    places: tuple[Place, Place],
) -> None:
    source, target = places
    talk = 'call add_task {"title": "milk"}\nsay Done.'

    async def ids(url: str) -> list[int]:
        async with serve(settings_for(url)) as base, Client(base, "alice") as alice:
            said = await alice.said(talk)
            [task] = (await alice.get(alice.mine("/tasks"))).json()["items"]
            key = await made_key(alice)
            return [
                task["id"],
                key["id"],
                *(said[f"{name}_id"] for name in ("conversation", "turn", "message")),
            ]

    async with serve(settings_for(source.url)):
        await source.run("Back up")
    given_out = await ids(source.url)
    await target.run("Restore")
    assert all(new > old for new, old in zip(await ids(target.url), given_out, strict=True))


async def test_what_was_revoked_or_deleted_since_the_backup_is_deleted_again(
    places: tuple[Place, Place],
) -> None:
    source, target = places
    async with (
        serve(settings_for(source.url)) as url,
        Client(url, "alice") as alice,
        Client(url, "bob") as bob,
    ):
        key = await made_key(alice)
        conversations = [(await alice.said("say Hello."))["conversation_id"] for _ in range(3)]
        await bob.said("say Hello.")
        since = datetime.now(UTC).isoformat()
        await source.run("Back up")
        with heard("chatapi.audit") as trail:
            await alice.delete(alice.mine(f"/keys/{key['id']}"))
            await alice.delete(alice.mine(f"/conversations/{conversations[0]}"))
            await alice.delete(f"/v1/conversations/conv_{conversations[1]}")
            await bob.delete(bob.mine(""), params={"confirm": "bob"})
    before = '{"time":"2020-01-01T00:00:00.000+00:00","event":"audit","action":"account.erased","outcome":"success","user_id":"alice"}'
    (target.directory / "service.log").write_text("\n".join(["A line for reading", before, *trail, ""]))
    await target.run("Restore")
    await target.run("Delete again", SINCE=since)

    async with serve(settings_for(target.url)) as url, Client(url, "alice") as alice:
        as_program = {"Authorization": f"Bearer {key['key']}"}
        assert (await alice.get("/api/me", headers=as_program)).status_code == 401
        left = (await alice.get(alice.mine("/conversations"))).json()["items"]
        assert [each["id"] for each in left] == conversations[2:]
    async with opened(target.url) as database:
        assert not any((await rows_of(database, "bob")).values())


async def test_a_user_whose_id_has_no_path_is_erased_by_hand(places: tuple[Place, Place]) -> None:
    place, _ = places
    user_id = "o'hara/1"
    async with (
        serve(settings_for(place.url)) as url,
        Client(url, user_id) as them,
        Client(url, "bob") as bob,
        opened(place.url) as database,
    ):
        talk = 'call add_task {"title": "milk"}\nsay Done.'
        await bob.said(talk)
        assert (await them.post("/api/chat", json={"message": talk})).status_code == 200
        await execute(
            place.url,
            "INSERT INTO files (user_id, turn_id, key, name, media_type, size, sha256, created_at, stored_at, sent_at) "
            "SELECT user_id, id, 'k', 'a.txt', 'text/plain', 1, 'x', created_at, created_at, created_at FROM turns "
            "WHERE user_id = :user_id",
            user_id=user_id,
        )
        of_bob = await rows_of(database, "bob")
        headings = ("Taking data out, and erasing it", "By hand", place.heading)
        await place.run_from("security.md", *headings, USER_ID=user_id)
        left = {name: count for name, count in (await rows_of(database, user_id)).items() if count}
        assert left == {"files": 1}
        await FileService(database, Storage(str(place.directory / "files")), settings_for(place.url)).sweep()
        assert not any((await rows_of(database, user_id)).values())
        assert await rows_of(database, "bob") == of_bob
