"""API keys: their form, and the check of one against the database. No framework here."""

import asyncio
import re
import secrets
import string
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from zlib import crc32

from msgspec import Struct
from sqlalchemy import Select, bindparam, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.auth.tokens import Identity, invalid_token
from chatapi.db.autocommit import Statement
from chatapi.db.database import Database
from chatapi.db.models import APIKey
from chatapi.db.owner import KeyHash
from chatapi.db.schema import Schema
from chatapi.errors.database import DatabaseUnavailable

START = "ck_"
LETTERS = string.digits + string.ascii_letters
SECRET_LETTERS = 36  # 214 bits, of which the 8 that are shown give away 48
SHOWN_LETTERS = 8
CHECK_LETTERS = 6  # hold any CRC-32
# For programs that look for leaked keys, too: docs/openai.md.
PATTERN = re.compile(rf"{START}[0-9A-Za-z]{{{SECRET_LETTERS + CHECK_LETTERS}}}")


HASH = bindparam("hash", None, type_=APIKey.hash.type)
COLUMNS: Sequence[Any] = (APIKey.id, APIKey.user_id, APIKey.expires_at)
FOUND: Select[Any] = select(*COLUMNS).where(APIKey.hash == HASH)
# A key's owner is not known before its row is found. So this names the hash to row-level security, where other
# transactions name the owner: a policy for it alone shows the row with this hash (migration 0013).
KEY = select(func.set_config("chatapi.key_hash", HASH, true()).label("hash")).cte("key")
FOUND_BY_HASH = Statement(FOUND.where(select(KEY.c.hash).scalar_subquery().is_not(None)))


class NewKey(Struct, frozen=True):
    """A key as only its owner ever sees it; what is stored are `hash` and `prefix`."""

    key: str

    @property
    def hash(self) -> str:
        return hash_of(self.key)

    @property
    def prefix(self) -> str:
        return prefix_of(self.key)


def make_key() -> NewKey:
    secret = "".join(secrets.choice(LETTERS) for _ in range(SECRET_LETTERS))
    return NewKey(START + secret + check_of(secret))


def check_of(secret: str) -> str:
    """The checksum at the end of a key: a text that only looks like one is told apart without asking the database."""
    left, letters = crc32(secret.encode()), ""
    for _ in range(CHECK_LETTERS):
        left, digit = divmod(left, len(LETTERS))
        letters = LETTERS[digit] + letters
    return letters


def hash_of(key: str) -> str:
    """Not slow, as of a password: nobody guesses 214 random bits."""
    return sha256(key.encode()).hexdigest()


def prefix_of(key: str) -> str:
    return key[: len(START) + SHOWN_LETTERS]


def is_api_key(token: str) -> bool:
    """Whether a bearer token is meant as one; no JWT begins so."""
    return token.startswith(START)


def is_whole(key: str) -> bool:
    return (
        PATTERN.fullmatch(key) is not None
        and check_of(key[len(START) : -CHECK_LETTERS]) == key[-CHECK_LETTERS:]
    )


class APIKeys:
    """Finds whose a key is: in the database, for each request, so that a revoked one ends at once in every process."""

    def __init__(
        self,
        database: Database,
        schema: Schema,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._schema = schema
        self._clock = clock
        self._hour = datetime.fromtimestamp(0, UTC)
        self._noted: set[int] = set()  # the keys whose use was noted in this hour
        self._noting: set[asyncio.Task[None]] = set()

    async def verify(self, key: str) -> Identity:
        """The owner of a key; raises `Unauthenticated` for one that was never made, was revoked or has expired."""
        if not is_whole(key):
            raise invalid_token("this is no whole API key")
        await self._schema.ensure_current()
        rows = await self._find(hash_of(key))
        if not rows:
            raise invalid_token(f"the API key {prefix_of(key)}... is not known here, or was revoked")
        ((key_id, user_id, expires_at),) = rows
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise invalid_token(f"the API key {prefix_of(key)}... has expired")
        self._note_use(user_id, key_id, now)
        return Identity(user_id=user_id, expires_at=expires_at, key_id=key_id)

    async def _find(self, hashed: str) -> Sequence[Sequence[Any]]:
        values = {"hash": hashed}
        if self._database.takes_statements:
            return await self._database.tried(lambda _: self._database.statement(FOUND_BY_HASH, values))

        async def find(session: AsyncSession) -> Sequence[Sequence[Any]]:
            found: Sequence[Sequence[Any]] = (await session.execute(FOUND, values)).all()
            return found

        return await self._database.read(KeyHash(hashed), find)

    def _note_use(self, user_id: str, key_id: int, now: datetime) -> None:
        """Store the hour of a use: once an hour, and beside the request, which does not wait for it."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour != self._hour:
            self._hour = hour
            self._noted.clear()
        if key_id not in self._noted:
            self._noted.add(key_id)
            task = asyncio.create_task(self._store_use(user_id, key_id, hour))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def _store_use(self, user_id: str, key_id: int, hour: datetime) -> None:
        used = (
            update(APIKey)
            .where(APIKey.id == key_id, APIKey.user_id == user_id)
            .where(or_(APIKey.last_used_at.is_(None), APIKey.last_used_at < hour))
            .values(last_used_at=hour)
        )
        with suppress(DatabaseUnavailable):  # the next hour's use will be stored
            await self._database.run(user_id, lambda session: session.execute(used))

    async def close(self) -> None:
        for task in self._noting:
            task.cancel()
        await asyncio.gather(*self._noting, return_exceptions=True)
