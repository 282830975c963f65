"""Turns a second on a real Citus beside one PostgreSQL, both on this machine; left out without CHATAPI_TEST_CITUS_URL."""

from urllib.parse import urlsplit

from benchmarks.measuring import CLIENTS, Row, cpu, interleaved, p95, rate, ratio
from benchmarks.servers import User, chatapi, guarded, running
from tests.support.citus import Citus
from tests.support.postgres import ROLE, Postgres

CITUS = {"DB_KIND": "citus"}


def scenario(postgres: Postgres) -> list[Row]:
    """32 clients, each a user in a conversation of their own, and a role under row-level security."""
    citus = Citus.of_environment()
    if citus is None:
        return [Row("Citus", "left out: CHATAPI_TEST_CITUS_URL names none")]
    url = citus.url(citus.new_database())
    name = urlsplit(url).path
    with running(
        guarded(postgres),
        chatapi(postgres, role=ROLE, name="chatapi, plain statements", settings=CITUS),
        chatapi(None, name="chatapi on Citus", settings={**CITUS, "DATABASE_URL": url, "MIGRATE": "off"}),
    ) as sides:
        users = {
            server: [User(f"user-{number}").begin(server) for number in range(CLIENTS)] for server in sides
        }
        found = interleaved([(server, [user.turn() for user in users[server]]) for server in sides])
    citus.drop(name.lstrip("/"))
    one, plain, many = found
    return [
        *(
            Row(
                f"turns a second: {server.name}",
                f"{rate(reports):.0f} (p95 {p95(reports) * 1000:.0f} ms; CPU of the process {cpu(reports) * 1000:.2f} ms a turn)",
            )
            for server, reports in zip(sides, found, strict=True)
        ),
        Row("plain statements, of one statement each", f"{ratio(plain, one):.2f} x"),
        Row("Citus with its workers beside it, of one PostgreSQL", f"{ratio(many, one):.2f} x"),
    ]
