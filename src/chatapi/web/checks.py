"""Checks that every service in the settings answers: for an operator, before or beside a running service."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from chatapi import __version__
from chatapi.auth.jwks import JWKS
from chatapi.db.database import Database
from chatapi.db.failures import cause_of
from chatapi.db.schema import Schema
from chatapi.files.storage import Storage
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.tracing import Tracing

Ask: TypeAlias = Callable[[Settings, Patience], Awaitable[None]]


async def ask_all(settings: Settings, patience: Patience) -> dict[str, str | None]:
    """The trouble of each service, by the variable that names it; None if it answers as it should."""
    asked: dict[str, Ask] = {"DATABASE_URL": ask_database}
    if settings.issuers:
        asked["JWKS_URL" if settings.jwks_url else "BETTER_AUTH_URL"] = ask_issuer
    if settings.redis_url is not None:
        asked["REDIS_URL"] = ask_redis
    asked["FILES_URL"] = ask_files
    return {name: await trouble(ask, settings, patience) for name, ask in asked.items()}


async def trouble(ask: Ask, settings: Settings, patience: Patience) -> str | None:
    try:
        async with asyncio.timeout(patience.check):
            await ask(settings, patience)
    except Exception as error:  # noqa: BLE001 - the operator wants to know of any error
        return cause_of(error)
    return None


async def ask_database(settings: Settings, patience: Patience) -> None:
    """Check that the database answers, and that its schema is this version's."""
    database = Database(settings, patience, Metrics(__version__, settings.chatapi_build), Tracing())
    try:
        await database.ping()
        await Schema(database, settings, patience).ensure_current()
    finally:
        await database.close()


async def ask_issuer(settings: Settings, patience: Patience) -> None:
    """Check that each issuer publishes keys."""
    for url in dict.fromkeys(issuer.keys_url for issuer in settings.issuers):
        jwks = JWKS(url, patience, Metrics(__version__, settings.chatapi_build))
        try:
            await jwks.find(None, "EdDSA")  # any algorithm: we only want to see a set of keys
        finally:
            await jwks.close()


async def ask_files(settings: Settings, _: Patience) -> None:
    await Storage(settings.files_url).check()


async def ask_redis(settings: Settings, _: Patience) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(settings.redis_address or "") as redis:
        await redis.ping()
