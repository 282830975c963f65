"""A page of messages as a client reads it after a reload: what it takes of the service, and of the version before."""

import httpx

from benchmarks import model_turns, servers
from benchmarks.measuring import Row, cost, cpu, interleaved
from benchmarks.servers import MESSAGE, Server, User, running
from tests.support.postgres import Postgres

TURNS = 50  # a page of 100 messages
CALLS_EACH = 5  # one turn of so many has a call of a tool
READERS = 4


def pages(postgres: Postgres) -> list[Row]:
    """CPU of a page of 100 messages, in each of its forms, on both databases."""
    rows = []
    for name, database in (("PostgreSQL", postgres), ("SQLite", None)):
        with running(servers.the_model()) as (model,):
            sides = [servers.chatapi(database, model=model)]
            if servers.before_is_there():
                sides.append(servers.chatapi(database, model=model, before=True))
            with running(*sides):
                paths = [(server, page_of_turns(server)) for server in sides]
                paths.insert(1, (sides[0], f"{paths[0][1]}&format=ui"))
                found = interleaved(
                    [(server, [User("reader").get(path)] * READERS) for server, path in paths], seconds=2.0
                )
        plain, _, *before = found
        what = f"a page of 100 messages on {name}"
        rows += [
            Row(f"{what}, {form}", f"CPU {cpu(reports) * 1000:.2f} ms")
            for form, reports in zip(("plain", "format=ui", "the version before"), found, strict=False)
        ]
        if before:
            times = cost(plain, before[0])
            rows.append(
                Row(
                    f"{what}, plain, of the version before",
                    f"{times:.2f} x",
                    "≤ 1.15",
                    times <= 1.15,
                )
            )
    return [*rows, *([] if servers.before_is_there() else [model_turns.WITHOUT_BEFORE])]


def page_of_turns(server: Server) -> str:
    """Have the turns made, and return the path of their page."""
    reader = User("reader").begin(server)
    url = f"http://127.0.0.1:{server.port}/api/reader/chat"
    with httpx.Client(headers=reader.authorization, timeout=30) as client:
        for number in range(1, TURNS):
            said = f"tool {MESSAGE}" if number % CALLS_EACH == 0 else MESSAGE
            body = {"message": said, "conversation_id": reader.conversation_id}
            client.post(url, json=body).raise_for_status()
    return f"/conversations/{reader.conversation_id}/messages?limit=100"
