"""Two PostgreSQL servers that take over from each other under load, and what the replicas make of it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from tests.chaos.harness import PATIENCE, Fleet, Talker
from tests.support.postgres import ROLE, Postgres, free_port
from tests.support.proxy import Proxy, proxy

CLIENTS = 8


class Server:
    """A server behind two proxies: one is the way of its clients, the other that of its standby."""

    def __init__(self, postgres: Postgres, front: Proxy, link: Proxy) -> None:
        self.postgres = postgres
        self.front = front
        self.link = link

    def disappear(self) -> None:
        """Lose the network, without telling anybody."""
        self.front.blackhole()
        self.link.blackhole()


class Pair:
    """A primary, and a standby that a COMMIT waits for."""

    def __init__(self, primary: Server, standby: Server, database: str) -> None:
        self.primary = primary
        self.standby = standby
        self._database = database

    @property
    def url(self) -> str:
        """As an operator writes it, with both."""
        ports = [server.front.port for server in (self.primary, self.standby)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://{ROLE}@{hosts}/{self._database}?target_session_attrs=read-write"

    @property
    def direct_url(self) -> str:
        return self.primary.postgres.admin_url(self._database)

    async def promote(self) -> None:
        """Make the standby the primary; the former one is the caller's."""
        await asyncio.to_thread(self.standby.postgres.promote)
        self.primary, self.standby = self.standby, self.primary

    async def follow(self) -> None:
        """Let a new server in the place of the former primary follow the present one."""
        self.standby.postgres.close()
        self.standby.postgres = await asyncio.to_thread(
            self.primary.postgres.standby, self.primary.link.port, self.standby.postgres.port
        )
        await self.primary.postgres.wait_for_standby()


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        primary = Postgres()
        await asyncio.to_thread(primary.prepare)
        database = await asyncio.to_thread(primary.new_database)
        ports = primary.port, free_port()
        proxies = [await stack.enter_async_context(proxy(port)) for port in (*ports, *ports)]
        standby = await asyncio.to_thread(primary.standby, proxies[2].port, ports[1])
        servers = Server(primary, proxies[0], proxies[2]), Server(standby, proxies[1], proxies[3])
        try:
            await primary.wait_for_standby()
            yield Pair(*servers, database)
        finally:
            for server in servers:
                server.postgres.close()


class Load:
    """Clients that talk all the time, and what they are told."""

    def __init__(self, fleet: Fleet) -> None:
        self.seen = Counter[str]()
        self.talkers = [Talker(number, fleet, self.seen) for number in range(CLIENTS)]
        self._stop = asyncio.Event()
        self._talking = asyncio.gather(*(talker.talk(self._stop) for talker in self.talkers))

    async def all_answered(self, talkers: Sequence[Talker] | None = None) -> None:
        """Wait until each client, or each of these, has had another answer."""
        talkers = self.talkers if talkers is None else talkers
        before = [len(talker.acknowledged) for talker in talkers]
        while any(len(talker.acknowledged) == count for talker, count in zip(talkers, before, strict=True)):
            assert not self._talking.done(), self._talking
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._talking, PATIENCE)


async def fail_over(pair: Pair, load: Load, lose: Callable[[Server], None]) -> float:
    """Lose the primary, promote the standby, and return the seconds until each client has had an answer."""
    lose(pair.primary)
    await pair.promote()
    began = time.monotonic()
    await load.all_answered()
    return time.monotonic() - began
