"""A turn of a long conversation with a model, as its turns were made: the 2,000th costs what the 20th does."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter

import httpx

from benchmarks import servers
from benchmarks.measuring import Row
from benchmarks.servers import MESSAGE, Server, User, running
from tests.support.postgres import Postgres

FIRST, LAST = 20, 2_000
CYCLE = 6  # turns from one fall of the window to the next, by the default limit
CYCLES = 12  # of a round
ROUNDS = 5
SECONDS = 120  # for a turn: SQLite waits for the disk, which others use, too
WORDS = 10  # times the message: 150 words


def scenario(postgres: Postgres) -> list[Row]:
    rows = []
    for name, database in (("PostgreSQL", postgres), ("SQLite", None)):
        with (
            running(servers.the_model()) as (model,),
            running(servers.chatapi(database, model=model)) as (server,),
        ):
            ratios, few = compared(server)
        cost = median(ratios)
        what = f"a turn from the {LAST:,}th on, of one from the {FIRST}th on, {name}"
        rows.append(Row(what, f"{cost:.2f} x ({few * 1000:.1f} ms)", "≤ 1.2", cost <= 1.2))
    return rows


def compared(server: Server) -> tuple[list[float], float]:
    """What turns of the long conversation take, of what those of a short one do, a round each in turn; and the latter."""
    long = Conversation(server, "long")
    for _ in range(LAST):
        long.turn()
    found = []
    for number in range(ROUNDS):
        short = Conversation(server, f"short-{number}")
        for _ in range(FIRST):
            short.turn()
        found.append((quick(short.cycles()), quick(long.cycles())))
    return [many / few for few, many in found], median(few for few, _ in found) / CYCLE


def quick(cycles: Iterator[float]) -> float:
    """The fastest quarter: a busy machine is not what is asked for. By whole cycles, for their turns differ in their history."""
    return sorted(cycles)[CYCLES // 4]


class Conversation:
    def __init__(self, server: Server, name: str) -> None:
        user = User(name).begin(server)
        self._url = f"http://127.0.0.1:{server.port}/api/{name}/chat"
        self._client = httpx.Client(headers=user.authorization, timeout=SECONDS)
        self._body = {"message": " ".join([MESSAGE] * WORDS), "conversation_id": user.conversation_id}

    def turn(self) -> None:
        self._client.post(self._url, json=self._body).raise_for_status()

    def cycles(self) -> Iterator[float]:
        """The seconds of each cycle of a round."""
        for _ in range(CYCLES):
            began = perf_counter()
            for _ in range(CYCLE):
                self.turn()
            yield perf_counter() - began
