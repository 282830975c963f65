"""The health routes, for people and for orchestrators. They need no token."""

import asyncio
import logging
from typing import Literal

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.openapi import ResponseSpec
from msgspec import UNSET, Struct, UnsetType

from chatapi import __version__
from chatapi.db.database import Database
from chatapi.db.failures import is_transient
from chatapi.db.schema import Schema
from chatapi.openapi import problem
from chatapi.settings import Settings

log = logging.getLogger(__name__)

PING_SECONDS = 2.0  # an orchestrator's probe gives up after a few


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["ok", "degraded"]
    database: Literal["connected", "disconnected"]
    version: str = __version__
    build: str | UnsetType = UNSET  # the commit that the image was built from


class Alive(Struct, frozen=True, kw_only=True):
    status: Literal["alive", "ready"]


class HealthController(Controller):
    path = "/health"
    tags = ("Health",)
    security = ()

    @get(
        operation_id="health",
        summary="Is the service well?",
        responses={
            503: ResponseSpec(Health, description="The database does not answer.", generate_examples=False)
        },
    )
    async def health(self, state: State) -> Response[Health]:
        """The database is really asked, unless all connections to it are at work."""
        database: Database = state.database
        settings: Settings = state.settings
        build = settings.chatapi_build or UNSET
        try:
            async with asyncio.timeout(PING_SECONDS):
                await database.check()
        except Exception as error:
            if not is_transient(error):
                log.exception("The database answers with an error")
            return Response(Health(status="degraded", database="disconnected", build=build), status_code=503)
        return Response(Health(status="ok", database="connected", build=build))

    @get("/live", operation_id="live", summary="Is the process alive?")
    async def live(self) -> Alive:
        """Asks nobody; a process that does not answer is to be restarted."""
        return Alive(status="alive")

    @get("/ready", operation_id="ready", summary="Can it take requests?", responses={503: problem(503)})
    async def ready(self, state: State) -> Alive:
        """The database answers and its schema is this version's; until then no traffic should come.

        While all connections are at work, the database is taken to answer until it is known that it does not.
        """
        schema: Schema = state.schema
        database: Database = state.database
        async with asyncio.timeout(PING_SECONDS):
            await database.check()
            await schema.ensure_current()
        return Alive(status="ready")
