"""Two replicas behind HAProxy, restarted one after the other while clients talk.

Half of the clients send each turn with a key and, as docs/api.md says, send it again when it was not answered; the
other half send each once, without a key. Run by test_rolling_restart.py, or by hand:

    .venv/bin/python -m tests.chaos.rolling --rounds 3
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from msgspec import Struct, field

from tests.chaos.harness import answers
from tests.support.haproxy import HAProxy
from tests.support.postgres import Postgres, free_port
from tests.support.serving import SECRET, Client, Process

CLIENTS = 12
TURN_SECONDS = 0.6  # so long that some are under way whenever a replica is told to stop
RETRIED = {409, 502, 503, 504}


class Talk(Struct):
    """What one client went through."""

    user_id: str
    keyed: bool
    answered: list[str] = []
    again: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)


class Report(Struct, frozen=True):
    restarts: int
    exit_codes: set[int]
    keyed: list[Talk]
    plain: list[Talk]

    def __str__(self) -> str:
        def total(talks: list[Talk], name: str) -> dict[str, int]:
            return dict(sum((getattr(talk, name) for talk in talks), Counter[str]()))

        return "\n".join(
            [
                f"replicas restarted            {self.restarts}, exit codes {self.exit_codes}",
                f"turns with a key              {sum(len(talk.answered) for talk in self.keyed)} answered",
                f"  sent again by the client    {total(self.keyed, 'again')}",
                f"turns without a key           {sum(len(talk.answered) for talk in self.plain)} answered",
                f"  not answered                {total(self.plain, 'unanswered')}",
            ]
        )


async def talk(url: str, talk: Talk, stop: asyncio.Event) -> None:
    conversation_id: int | None = None
    while not stop.is_set():
        title = uuid4().hex
        message = f'call add_task {{"title": "{title}"}}\nsleep {TURN_SECONDS}\nsay {title}'
        headers = {"Idempotency-Key": uuid4().hex} if talk.keyed else {}
        while True:
            async with Client(url, talk.user_id) as client:
                outcome = await send(client, message, conversation_id, headers)
            if isinstance(outcome, dict):
                conversation_id = outcome["conversation_id"]
                talk.answered.append(title)
                break
            if not talk.keyed:
                talk.unanswered[outcome] += 1
                break
            talk.again[outcome] += 1
            await asyncio.sleep(0.2)


async def send(
    client: Client, message: str, conversation_id: int | None, headers: dict[str, str]
) -> dict[str, Any] | str:
    """The answer, or why there is none."""
    try:
        response = await client.chat(message, conversation_id, headers=headers)
    except httpx.TransportError as error:
        return type(error).__name__
    if response.status_code == 200:
        return dict(response.json())
    assert response.status_code in RETRIED, response.text
    return str(response.status_code)


async def answered_again(talks: list[Talk]) -> None:
    """Wait until each client had two answers more, so that restarts and turns meet on a slow machine as well."""
    wanted = [len(each.answered) + 2 for each in talks]
    while any(len(each.answered) < count for each, count in zip(talks, wanted, strict=True)):  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.05)


async def roll(directory: Path, database_url: str, rounds: int) -> Report:
    """Restart each replica `rounds` times, the next when the one before is ready again."""
    environ = {
        "DATABASE_URL": database_url,
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": "tests.support.agents:CommandedAgent",
        "RATE_LIMIT_CHAT": "off",
        "RATE_LIMIT": "off",
        "LOG_LEVEL": "WARNING",
    }
    ports = [free_port(), free_port()]
    processes = [Process(directory, environ, port=port) for port in ports]
    await asyncio.gather(*(answers(f"http://127.0.0.1:{port}") for port in ports))
    proxy = await asyncio.to_thread(HAProxy, directory, ports)
    await answers(proxy.url)
    stop = asyncio.Event()
    talks = [Talk(user_id=f"user-{number}", keyed=number % 2 == 0) for number in range(CLIENTS)]
    codes: set[int] = set()
    try:
        async with asyncio.TaskGroup() as talking:
            for each in talks:
                talking.create_task(talk(proxy.url, each, stop))
            for _ in range(rounds):
                for index, port in enumerate(ports):
                    await proxy.has_up(len(ports))
                    await answered_again(talks)
                    processes[index].terminate()
                    codes.add(await processes[index].wait())
                    processes[index] = Process(directory, environ, port=port)
                    await answers(f"http://127.0.0.1:{port}")
            await answered_again(talks)
            stop.set()
    finally:
        proxy.close()
        for process in processes:
            await process.__aexit__(None, None, None)
    keyed = [each for each in talks if each.keyed]
    return Report(rounds * len(ports), codes, keyed, [each for each in talks if not each.keyed])


async def main(rounds: int) -> None:
    postgres = await asyncio.to_thread(Postgres)
    await asyncio.to_thread(postgres.prepare)
    database_url = postgres.url(await asyncio.to_thread(postgres.new_database))
    with tempfile.TemporaryDirectory() as directory:
        print(await roll(Path(directory), database_url, rounds))
    await asyncio.to_thread(postgres.close)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(main(parser.parse_args().rounds))
