"""What is between the service and a managed PostgreSQL: a pooler in transaction mode, TLS, and a database that sleeps."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import trustme

from tests.support.agents import CommandedAgent
from tests.support.logs import heard
from tests.support.pgbouncer import PROGRAM, PgBouncer, knows_prepared_statements
from tests.support.postgres import Postgres
from tests.support.proxy import proxy
from tests.support.serving import SECRET, Client, Process, serve, settings_for, two_replicas
from tests.support.sse import chunks_of, streamed, text_of

pytestmark = pytest.mark.slow

TURNS = 4
USERS = 12


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")
class TestPgBouncer:
    @pytest.fixture(params=[False, True], ids=["unprepared", "prepared"])
    async def pooler(self, postgres: Postgres, request: pytest.FixtureRequest) -> AsyncIterator[PgBouncer]:
        """Three connections to PostgreSQL, whatever comes."""
        if request.param and not knows_prepared_statements():
            pytest.skip("this PgBouncer knows no prepared statements")
        database = await asyncio.to_thread(postgres.new_database, migrated=False)
        pooler = await asyncio.to_thread(PgBouncer, postgres, database, pool_size=3, prepared=request.param)
        yield pooler
        await asyncio.to_thread(pooler.close)

    @asynccontextmanager
    async def replicas(self, directory: Path, pooler: PgBouncer) -> AsyncIterator[list[str]]:
        """Two processes: statements that each keeps prepared under names of its own counting would get mixed up."""
        environ = {
            "DATABASE_URL": pooler.url,
            "BETTER_AUTH_SECRET": SECRET,
            "CHAT_MODEL": "tests.support.agents:CommandedAgent",
            "MIGRATE": "auto",
            "RATE_LIMIT_CHAT": "off",
        }
        async with Process(directory, environ) as one, Process(directory, environ) as other:
            yield [await one.ready(), await other.ready()]

    async def test_turns_keys_and_owners_hold_through_three_connections(
        self, directory: Path, pooler: PgBouncer
    ) -> None:
        async with self.replicas(directory, pooler) as urls:
            await asyncio.gather(*(self.talk(urls, f"user-{number}") for number in range(USERS)))
        # A setting of one transaction that outlived it would show somebody's rows here.
        for _ in range(6):
            connection = await asyncpg.connect(pooler.url.partition("?")[0], statement_cache_size=0)
            assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
            await connection.close()

    async def talk(self, urls: list[str], user_id: str) -> None:
        conversation_id = None
        titles = [f"{user_id} {number}" for number in range(TURNS)]
        for number, title in enumerate(titles):
            headers = {"Idempotency-Key": uuid4().hex}
            message = f'call add_task {{"title": "{title}"}}\nsay {number}'
            async with (
                Client(urls[number % 2], user_id) as here,
                Client(urls[(number + 1) % 2], user_id) as there,
            ):
                first = await here.chat(message, conversation_id, headers=headers)
                assert first.status_code == 200, first.text
                again = await there.chat(message, conversation_id, headers=headers)
                assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
                conversation_id = first.json()["conversation_id"]
                tasks = (await there.get(there.mine("/tasks"))).json()["items"]
                assert [task["title"] for task in tasks] == titles[: number + 1]
                assert len(await there.messages(conversation_id)) == 2 * (number + 1)

    async def test_streams_queues_and_cancels_hold(self, pooler: PgBouncer) -> None:
        """The database is where replicas meet: one runs the turns, the other streams and cancels them."""
        gate, never = CommandedAgent.gates[first := uuid4().hex], CommandedAgent.gates[second := uuid4().hex]
        async with two_replicas(pooler.url) as (here, there):
            turn = asyncio.create_task(streamed(here, f"say Hel\ngate {first}\nsay lo."))
            await gate.reached.wait()
            queued = {"message": f"gate {second}", "conversation_id": 1, "when_busy": "queue"}
            following = asyncio.create_task(there.post(there.mine("/chat"), json=queued))
            async with there.stream("GET", there.mine("/chat/1/stream")) as response:
                chunks = chunks_of(response)
                seen = [await anext(chunks)]
                while text_of(seen) != "Hel":
                    seen.append(await anext(chunks))
                gate.opened.set()
                seen += [chunk async for chunk in chunks]
            assert (text_of(seen), seen[-1]) == ("Hello.", (await turn)[-1])
            await never.reached.wait()
            assert (await here.post(here.mine("/turns/2/cancel"))).status_code == 202
            assert (await following).json()["type"] == "urn:chatapi:problem:turn-cancelled"
            shown = await there.messages(1)
            assert [message["status"] for message in shown] == ["completed", "completed", "cancelled"]


class Authority:
    """A certificate authority, and a database behind a certificate of it for `localhost`."""

    def __init__(self, directory: Path, postgres: Postgres) -> None:
        authority = trustme.CA()
        self.file = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.file)
        self.stranger = directory / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(self.stranger)
        certificate = authority.issue_cert("localhost").private_key_and_cert_chain_pem.bytes()
        self.server = PgBouncer(
            postgres, postgres.new_database(migrated=False), pool_size=3, certificate=certificate
        )

    def url(self, parameters: str, *, host: str = "localhost") -> str:
        return f"{self.server.url.replace('127.0.0.1', host)}&{parameters}"


@pytest.fixture(scope="module")
def authority(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    made = Authority(tmp_path_factory.mktemp("authority"), postgres)
    yield made
    made.server.close()


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")
class TestEncryption:
    """As with Neon, what answers TLS is a proxy in front of PostgreSQL; this one refuses what is not encrypted."""

    @pytest.mark.parametrize(
        "parameters",
        [
            "sslmode=require",
            "sslmode=require&channel_binding=require",
            "sslmode=require&sslrootcert={file}",
            "sslmode=verify-ca&sslrootcert={file}",
            "sslmode=verify-full&sslrootcert={file}",
        ],
    )
    async def test_as_pasted_it_is_encrypted(self, authority: Authority, parameters: str) -> None:
        settings = settings_for(authority.url(parameters.format(file=authority.file)))
        async with serve(settings) as base, Client(base, "alice") as alice:
            assert (await alice.said("say Hello."))["response"] == "Hello."

    async def test_what_is_not_encrypted_is_refused(self, authority: Authority) -> None:
        settings = settings_for(authority.url("sslmode=disable"), migrate="off")
        async with serve(settings) as base, Client(base, "alice") as alice:
            assert (await alice.chat("say Hello.")).status_code == 503

    @pytest.mark.parametrize(
        ("parameters", "host", "reason"),
        [
            ("sslmode=verify-full&sslrootcert={stranger}", "localhost", "CERTIFICATE_VERIFY_FAILED"),
            ("sslmode=verify-ca&sslrootcert={stranger}", "localhost", "CERTIFICATE_VERIFY_FAILED"),
            ("sslmode=require&sslrootcert={stranger}", "localhost", "CERTIFICATE_VERIFY_FAILED"),
            ("sslmode=verify-full&sslrootcert=system", "localhost", "CERTIFICATE_VERIFY_FAILED"),
            ("sslmode=verify-full", "localhost", "CERTIFICATE_VERIFY_FAILED"),
            ("sslmode=verify-full&sslrootcert={file}", "127.0.0.1", "IP address mismatch"),
        ],
    )
    async def test_a_certificate_that_does_not_hold_is_refused_and_said(
        self,
        authority: Authority,
        parameters: str,
        host: str,
        reason: str,
    ) -> None:
        given = parameters.format(file=authority.file, stranger=authority.stranger)
        settings = settings_for(authority.url(given, host=host), migrate="off")
        async with serve(settings) as base, Client(base, "alice") as alice:
            with heard("chatapi.web.problems") as messages:
                answer = await alice.chat("say Hello.")
            assert (answer.status_code, answer.json()["type"]) == (
                503,
                "urn:chatapi:problem:database-untrusted",
            )
            assert "Retry-After" in answer.headers
            assert (await alice.get("/health")).json()["database"] == "disconnected"
        assert reason in messages[0]

    async def test_of_several_hosts_each_is_held_to_its_own_name(self, authority: Authority) -> None:
        parameters = f"sslmode=verify-full&sslrootcert={authority.file}"
        other = f"127.0.0.1:{authority.server.port}"
        async with (
            serve(settings_for(authority.url(parameters, host=f"{other},localhost"))) as base,
            Client(base, "alice") as alice,
        ):
            assert (await alice.said("say Hello."))["response"] == "Hello."
        settings = settings_for(authority.url(parameters, host=f"{other},127.0.0.1"), migrate="off")
        async with serve(settings) as base, Client(base, "alice") as alice:
            assert (await alice.chat("say Hello.")).json()["type"] == "urn:chatapi:problem:database-untrusted"

    async def test_verify_ca_takes_any_name(self, authority: Authority) -> None:
        url = authority.url(f"sslmode=verify-ca&sslrootcert={authority.file}", host="127.0.0.1")
        async with serve(settings_for(url)) as base, Client(base, "alice") as alice:
            assert (await alice.said("say Hello."))["response"] == "Hello."


class TestColdStart:
    """Neon puts a database to sleep that nobody asks anything, and wakes it by the first connection."""

    async def test_a_database_that_refuses_at_first_is_waited_for_and_nothing_is_lost(
        self, postgres: Postgres
    ) -> None:
        name = await asyncio.to_thread(postgres.new_database, migrated=False)
        async with proxy(postgres.port) as between:
            between.cut()
            settings = settings_for(postgres.url(name, port=between.port))
            async with serve(settings) as base, Client(base, "alice") as alice:
                headers = {"Idempotency-Key": uuid4().hex}
                told = await alice.chat("say Hello.", headers=headers)
                assert (told.status_code, int(told.headers["Retry-After"]) >= 1) == (503, True)
                between.heal()
                for _ in range(600):
                    answer = await alice.chat("say Hello.", headers=headers)
                    if answer.status_code == 200:
                        break
                    assert answer.status_code == 503
                    await asyncio.sleep(0.1)
                assert answer.json()["response"] == "Hello."
                assert len(await alice.messages(answer.json()["conversation_id"])) == 2

    async def test_a_database_that_takes_seconds_costs_seconds_and_no_error(self, postgres: Postgres) -> None:
        name = await asyncio.to_thread(postgres.new_database)
        async with proxy(postgres.port) as between:
            between.blackhole()
            settings = settings_for(postgres.url(name, port=between.port), migrate="off")
            async with serve(settings) as base, Client(base, "alice") as alice:
                turns = asyncio.gather(*(alice.chat(f"say {number}") for number in range(5)))
                await asyncio.sleep(1.5)
                assert not turns.done()
                between.heal()
                assert [answer.json().get("response") for answer in await turns] == list("01234")


async def test_a_service_that_nobody_uses_lets_its_database_sleep(postgres: Postgres) -> None:
    """A heartbeat in an idle process would keep a database awake, and paid for, day and night."""
    name = await asyncio.to_thread(postgres.new_database)
    settings = settings_for(postgres.url(name))
    async with serve(settings) as base, Client(base, "alice") as alice:
        await alice.get("/api/me")
        connection = await asyncpg.connect(postgres.url("postgres", role="postgres"))
        await asyncio.sleep(1)  # what is looked for at the start
        question = "SELECT max(state_change) FROM pg_stat_activity WHERE datname = $1"
        before = await connection.fetchval(question, name)
        await asyncio.sleep(4.5)  # a heartbeat's time
        assert await connection.fetchval(question, name) == before
        await connection.close()
