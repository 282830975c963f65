"""Clients that retry, replicas and a database that fail, and the count at the end.

Each client talks in a conversation of its own. A turn asks for one task with a title of its own, and is sent again
with its key, to any replica, until it is answered. What was answered is remembered to the byte. At the end the
database is read, and every promise of docs/durability.md is counted. Run by test_durability.py, or by hand:

    .venv/bin/python -m tests.chaos.harness kill-replicas --seconds 30
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import httpx
from msgspec import Struct

from tests.support.citus import Citus
from tests.support.postgres import Postgres, free_port
from tests.support.serving import SECRET, Client, Process

Server: TypeAlias = Postgres | Citus

CLIENTS = 24
REPLICAS = 2
LEAST = 3  # disturbances, however slow the machine is
PATIENCE = 90.0  # seconds after the trouble has ended in which each turn under way must be answered


class Acknowledged(Struct, frozen=True):
    """A turn that a client was told the answer of."""

    user_id: str
    key: str
    message: str
    conversation_id: int | None
    title: str
    body: bytes


class Fleet:
    """Replicas on fixed ports; one that is killed is started again."""

    def __init__(self, directory: Path, database_url: str, **settings: str) -> None:
        self.urls: list[str] = []
        self.kills = 0
        self._directory = directory
        self._environ = {
            "DATABASE_URL": database_url,
            "BETTER_AUTH_SECRET": SECRET,
            "CHAT_MODEL": "tests.support.agents:CommandedAgent",
            "LOG_LEVEL": "WARNING",
            "RATE_LIMIT_CHAT": "off",  # a talker that is fast is not to be refused
            **settings,
        }
        self._processes: list[Process] = []

    async def start(self) -> None:
        for _ in range(REPLICAS):
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}")
            self._processes.append(self._launch(port))
        await asyncio.gather(*(answers(url) for url in self.urls))

    async def kill_one(self) -> None:
        """SIGKILL to a replica, and another in its place."""
        index = self.kills % REPLICAS
        self.kills += 1
        self._processes[index].kill()
        await self._processes[index].wait()
        self._processes[index] = self._launch(int(self.urls[index].rsplit(":", 1)[1]))
        await answers(self.urls[index])

    async def stop(self) -> None:
        for process in self._processes:
            await process.__aexit__(None, None, None)

    def _launch(self, port: int) -> Process:
        return Process(self._directory, self._environ, port=port)


async def answers(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(600):
            try:
                if (await client.get(f"{url}/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(f"{url} does not become ready")


class Talker:
    """One client: turn after turn until it is told to stop, each sent until it is answered."""

    def __init__(self, number: int, fleet: Fleet, seen: Counter[str]) -> None:
        self.user_id = f"user-{number}"
        self.acknowledged: list[Acknowledged] = []
        self._fleet = fleet
        self._seen = seen
        self._conversation_id: int | None = None

    async def talk(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            title = uuid4().hex
            message = f'call add_task {{"title": "{title}"}}\nsleep 0.1\nsay {title}'
            key = uuid4().hex
            response = await self._until_answered(message, key)
            self.acknowledged.append(
                Acknowledged(self.user_id, key, message, self._conversation_id, title, response.content)
            )
            self._conversation_id = response.json()["conversation_id"]

    async def _until_answered(self, message: str, key: str) -> httpx.Response:
        give_up = time.monotonic() + PATIENCE * 2
        while time.monotonic() < give_up:
            try:
                async with Client(random.choice(self._fleet.urls), self.user_id) as client:
                    response = await client.chat(
                        message, self._conversation_id, headers={"Idempotency-Key": key}, timeout=30
                    )
            except httpx.TransportError as error:
                self._seen[type(error).__name__] += 1
            else:
                self._seen[str(response.status_code)] += 1
                if response.status_code == 200:
                    return response
                if response.status_code not in {409, 502, 503}:
                    raise AssertionError(f"{response.status_code}: {response.text}")
            await asyncio.sleep(random.uniform(0.1, 0.5))
        raise AssertionError(f"the turn {key} of {self.user_id} was never answered")


class Report(Struct, frozen=True):
    """What was done, and what was found. Every count of `wrong` has to be 0."""

    scenario: str
    disturbances: int
    responses: dict[str, int]
    acknowledged: int
    replayed: int
    wrong: dict[str, int]

    def __str__(self) -> str:
        rows = [
            f"scenario                {self.scenario}",
            f"disturbances            {self.disturbances}",
            f"responses               {self.responses}",
            f"turns acknowledged      {self.acknowledged}",
            f"keys replayed the same  {self.replayed}",
            *(f"wrong: {name:<24} {count}" for name, count in self.wrong.items()),
        ]
        return "\n".join(rows)


async def audit(database_url: str, talkers: list[Talker], fleet: Fleet) -> tuple[int, dict[str, int]]:
    """Count what should not be, in the database, which is read as the superuser, and in what keys replay."""
    wrong: Counter[str] = Counter()
    connection = await asyncpg.connect(database_url)
    for turn in (turn for talker in talkers for turn in talker.acknowledged):
        rows = await connection.fetch(
            "SELECT t.status, m.role, m.content FROM turns t JOIN messages m ON m.turn_id = t.id AND m.user_id = t.user_id "
            "WHERE t.user_id = $1 AND t.idempotency_key = $2 ORDER BY m.id",
            turn.user_id,
            turn.key,
        )
        wrong["turns not completed"] += {row["status"] for row in rows} != {"completed"}
        wrong["user messages not once"] += [row["content"] for row in rows if row["role"] == "user"] != [
            turn.message
        ]
        answered = [row["content"] for row in rows if row["role"] == "assistant"]
        wrong["answers not once"] += answered != [f"add_task: done. {turn.title}"]
        tasks = await connection.fetchval("SELECT count(*) FROM tasks WHERE title = $1", turn.title)
        wrong["tasks lost"] += tasks == 0
        wrong["tasks doubled"] += tasks > 1
    wrong["turns left running"] += await connection.fetchval(
        "SELECT count(*) FROM turns WHERE status = 'running'"
    )
    wrong["tasks never asked for"] += await connection.fetchval(
        "SELECT count(*) FROM tasks WHERE title <> ALL($1::text[])",
        [turn.title for talker in talkers for turn in talker.acknowledged],
    )
    wrong["turns interleaved"] += await connection.fetchval(
        "SELECT count(*) FROM (SELECT turn_id, lag(turn_id) OVER (PARTITION BY user_id, conversation_id ORDER BY id) AS before "
        "FROM messages) AS m WHERE before > turn_id"
    )
    await connection.close()
    replayed = 0
    for talker in talkers:
        async with Client(fleet.urls[0], talker.user_id) as client:
            for turn in talker.acknowledged:
                again = await client.chat(
                    turn.message, turn.conversation_id, headers={"Idempotency-Key": turn.key}
                )
                same = again.content == turn.body and again.headers.get("Idempotent-Replayed") == "true"
                replayed += same
                wrong["replays that differ"] += not same
    return replayed, dict(wrong)


async def run(
    scenario: str,
    postgres: Server,
    directory: Path,
    seconds: float,
    disturb: Callable[[Fleet], Awaitable[None]],
) -> Report:
    """Let the clients talk while `disturb` is called again and again for so many seconds; then count."""
    name = await asyncio.to_thread(postgres.new_database)
    fleet, seen, stop = Fleet(directory, postgres.url(name)), Counter[str](), asyncio.Event()
    talkers = [Talker(number, fleet, seen) for number in range(CLIENTS)]
    disturbances = 0
    try:
        await fleet.start()
        talking = asyncio.gather(*(talker.talk(stop) for talker in talkers))
        end = time.monotonic() + seconds
        while (time.monotonic() < end or disturbances < LEAST) and not talking.done():
            await asyncio.sleep(random.uniform(0.5, 2.0))
            await disturb(fleet)
            disturbances += 1
        stop.set()
        await asyncio.wait_for(talking, PATIENCE)
        replayed, wrong = await audit(postgres.admin_url(name), talkers, fleet)
    finally:
        await fleet.stop()
        await asyncio.to_thread(postgres.drop, name)
    acknowledged = sum(len(talker.acknowledged) for talker in talkers)
    return Report(scenario, disturbances, dict(sorted(seen.items())), acknowledged, replayed, wrong)


async def kill_replicas(_: Server, fleet: Fleet) -> None:
    await fleet.kill_one()


async def restart_database(postgres: Server, _: Fleet) -> None:
    assert isinstance(postgres, Postgres), "test_citus.py stops the machines of a Citus"
    await asyncio.to_thread(postgres.stop, "immediate")  # as a crash would
    await asyncio.sleep(random.uniform(0.1, 2.0))
    await asyncio.to_thread(postgres.start)


async def kill_connections(postgres: Server, _: Fleet) -> None:
    await postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chatapi'"
    )


SCENARIOS = {
    "kill-replicas": kill_replicas,
    "restart-database": restart_database,
    "kill-connections": kill_connections,
}


async def run_scenario(scenario: str, postgres: Server, directory: Path, seconds: float) -> Report:
    return await run(
        scenario, postgres, directory, seconds, lambda fleet: SCENARIOS[scenario](postgres, fleet)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Disturb a small fleet and count what it lost.")
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    postgres = Postgres()
    postgres.prepare()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(run_scenario(arguments.scenario, postgres, Path(directory), arguments.seconds))
    postgres.close()
    print(report)


if __name__ == "__main__":
    main()
