"""The services of one process: made, started and stopped here, in order. Nothing is made at import."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from chatapi import __version__
from chatapi.agent.loading import load_agent
from chatapi.agent.ports import Agent
from chatapi.agent.tools import TASK_TOOLS, no_external_tools
from chatapi.auth.api_keys import APIKeys
from chatapi.auth.tokens import TokenVerifier
from chatapi.conversations.search.backfill import Backfill
from chatapi.conversations.tools import SEARCH_CONVERSATIONS
from chatapi.db.database import Database
from chatapi.db.schema import Schema
from chatapi.errors.database import DatabaseUnavailable
from chatapi.files.service import FileService
from chatapi.files.storage import Storage
from chatapi.limits.limiter import Limiter
from chatapi.limits.messages import MessageLimit
from chatapi.mcp.config import external_tools
from chatapi.mcp.endpoint import MCPEndpoint, say_how_clients_sign_in
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.tracing import tracing_from
from chatapi.turns.attachments import AgentWithFiles
from chatapi.turns.expiry import Expiry
from chatapi.turns.launcher import Launcher
from chatapi.turns.lease import Lease
from chatapi.turns.loops import every
from chatapi.turns.measures import Telemetry
from chatapi.turns.queue import QueueWatch
from chatapi.turns.service import ChatService
from chatapi.turns.stateless import Stateless
from chatapi.turns.store import TurnStore, turn_store
from chatapi.turns.summaries import Summaries
from chatapi.turns.supervisor import Supervisor
from chatapi.turns.titles import Titles
from chatapi.usage.budgets import Budgets
from chatapi.usage.meter import Meter
from chatapi.web.requests import MAX_BODY_BYTES
from chatapi.web.shutdown import told_to_stop

if TYPE_CHECKING:
    from chatapi.mcp.client import ExternalTools

OFFLINE = "offline"  # the model's name of the assistant that searches only by this tool
OVERTIME_SECONDS = 60.0  # beyond CHAT_TIMEOUT, for a turn whose end waits for the database


class Services(Struct, frozen=True, kw_only=True, eq=False):
    """The services of one process. `external` are the tools of the operator's MCP servers, if any are configured."""

    settings: Settings
    patience: Patience
    telemetry: Telemetry
    agent: Agent
    limiter: Limiter
    database: Database
    schema: Schema
    store: TurnStore
    lease: Lease
    meter: Meter
    supervisor: Supervisor
    expiry: Expiry
    queue: QueueWatch
    launcher: Launcher
    titles: Titles
    summaries: Summaries
    verifier: TokenVerifier
    api_keys: APIKeys
    external: "ExternalTools | None"
    files: FileService
    chat: ChatService
    stateless: Stateless
    mcp: MCPEndpoint

    @classmethod
    def of(
        cls,
        settings: Settings,
        patience: Patience,
        agent: Agent | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Services":
        """Make everything and start nothing; raises `SettingsError`.

        The agent comes from the settings unless given. The windows of rate limits move by `clock`.
        """
        telemetry = Telemetry(Metrics(__version__, settings.chatapi_build), tracing_from())
        agent = agent or load_agent(settings, patience)
        limiter = Limiter(settings, patience, telemetry.metrics, clock=clock)
        database = Database(settings, patience, telemetry.metrics, telemetry.tracing)
        schema = Schema(database, settings, patience)
        meter = Meter.of(settings, agent, database, telemetry.metrics)
        titles = Titles(database, agent, meter, settings, patience)
        store = turn_store(database, titles)
        lease = Lease(database, patience, turn_seconds=settings.chat_timeout + OVERTIME_SECONDS)
        supervisor = Supervisor(store, patience)
        titles.tell = supervisor.tell_title
        budgets = Budgets(settings.budgets, telemetry.metrics)
        summaries = Summaries(database, agent, meter, budgets, settings, patience)
        summaries.tell = supervisor.tell_summary
        queue = QueueWatch(store, schema, patience)
        expiry = Expiry(store, queue, schema, patience, telemetry.metrics)
        external = external_tools(settings, patience)
        tools = external or no_external_tools
        own = (*TASK_TOOLS, SEARCH_CONVERSATIONS) if agent.model == OFFLINE else TASK_TOOLS
        files = FileService(database, Storage(settings.files_url), settings)
        attachments = AgentWithFiles(agent, files, settings)
        launcher = Launcher(
            store,
            supervisor,
            lease,
            expiry,
            queue,
            attachments,
            own,
            tools,
            meter,
            budgets,
            summaries,
            settings,
            patience,
            telemetry,
            looks_back=agent.model != OFFLINE,
        )
        return cls(
            settings=settings,
            patience=patience,
            telemetry=telemetry,
            agent=agent,
            limiter=limiter,
            database=database,
            schema=schema,
            store=store,
            lease=lease,
            meter=meter,
            supervisor=supervisor,
            titles=titles,
            summaries=summaries,
            verifier=TokenVerifier(settings, patience, telemetry.metrics),
            api_keys=APIKeys(database, schema),
            external=external,
            files=files,
            expiry=expiry,
            queue=queue,
            launcher=launcher,
            chat=ChatService(
                store,
                supervisor,
                launcher,
                expiry,
                attachments,
                queue,
                MessageLimit(limiter),
                patience,
                telemetry,
            ),
            stateless=Stateless(database, launcher, attachments, limiter),
            mcp=MCPEndpoint(database, schema, limiter, settings, max_body_bytes=MAX_BODY_BYTES),
        )


@asynccontextmanager
async def lifespan(services: Services) -> AsyncIterator[None]:
    """Start everything, and at the end stop it from the last to the first, even if one of them fails."""
    patience = services.patience
    draining: list[asyncio.Task[None]] = []

    def drain() -> None:
        draining.append(asyncio.create_task(services.supervisor.drain(patience.drain)))

    async with AsyncExitStack() as closing:
        closing.push_async_callback(asyncio.to_thread, services.telemetry.tracing.close, patience.traces)
        for resource in (services.database, services.limiter, services.verifier, services.api_keys):
            closing.push_async_callback(resource.close)
        closing.push_async_callback(release, services.lease)
        supervisor, begin_next = services.supervisor, services.launcher.begin_next
        backfill = Backfill(services.database, services.schema)
        sweep = partial(sweep_files, services.files, patience)
        for loop in (
            services.lease.run,
            supervisor.watch,
            partial(supervisor.live.run, begin_next),
            services.titles.run,
            services.summaries.run,
            backfill.run,
            sweep,
        ):
            closing.push_async_callback(stop, asyncio.create_task(loop()))
        migrating = asyncio.create_task(services.schema.migrate())
        closing.callback(migrating.cancel)
        with told_to_stop(migrating.cancel):
            await asyncio.wait([migrating])
        if not migrating.cancelled() and migrating.exception() is not None:
            # The service starts all the same, answers 503 with the reason, and tries again.
            closing.push_async_callback(stop, asyncio.create_task(services.schema.migrate_when_possible()))
        # Their first look needs the schema; a second comes only when something is due.
        for look in (services.expiry.run, partial(services.queue.run, begin_next)):
            closing.push_async_callback(stop, asyncio.create_task(look()))
        if services.external is not None:
            closing.push_async_callback(services.external.close)
            await services.external.start()
        closing.push_async_callback(services.mcp.close)
        say_how_clients_sign_in(services.settings)
        if isinstance(services.agent, AbstractAsyncContextManager):
            await closing.enter_async_context(services.agent)
        closing.push_async_callback(services.titles.close)
        closing.push_async_callback(services.summaries.close)
        closing.push_async_callback(supervisor.drain, 0)
        with told_to_stop(drain):
            yield
        await asyncio.gather(*draining)  # turns go on when the last stream of one has been closed


async def sweep_files(files: FileService, patience: Patience) -> None:
    """Delete files that nobody wants any more; until cancelled."""
    await asyncio.to_thread(files.clear_leftovers)
    await every(
        patience.files_sweep, files.sweep, absence="Files wait to be deleted while the database is away"
    )


async def release(lease: Lease) -> None:
    with suppress(DatabaseUnavailable):  # the lease then expires by itself
        await lease.release()


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
