"""Turns that run in another process, read here: one poll of the database for all of them, however many read."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.chat import chunks, store
from chatapi.chat.chunks import Chunk, Place
from chatapi.chat.events import TurnLog
from chatapi.chat.periodic import every
from chatapi.chat.schemas import ChatAnswer
from chatapi.db.database import Database
from chatapi.db.models import RUNNING, Turn
from chatapi.db.owner import EVERYONE
from chatapi.db.paging import MAX_ID
from chatapi.errors import (
    AppError,
    DatabaseUnavailable,
    Restarting,
    TurnCancelled,
    TurnNotFound,
    restored,
)

POLL_SECONDS = 0.25  # what is said is written every 0.5 s, so it is seen elsewhere within 0.75 s
UNREAD_POLLS = 20  # a log is made a moment before it is read


class Following:
    """The logs of turns that run elsewhere, each shared by those who read it here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followed: dict[str, Followed] = {}
        self._polling = asyncio.Lock()

    @property
    def logs(self) -> list[TurnLog]:
        return [followed.log for followed in self._followed.values()]

    async def follow(self, turn: Turn) -> TurnLog:
        """The turn's log, which fills from the database; raises `DatabaseUnavailable`."""
        followed = self._followed.setdefault(turn.run_id, Followed(turn))
        await self._poll([followed])
        return followed.log

    async def run(self) -> None:
        """Poll until cancelled; nothing is asked while nobody reads."""
        await every(
            POLL_SECONDS,
            self._poll_wanted,
            absence="Turns of other processes are not seen while the database is away",
        )

    async def _poll_wanted(self) -> None:
        wanted = {run_id: each for run_id, each in self._followed.items() if each.is_wanted()}
        for run_id in self._followed.keys() - wanted.keys():
            log = self._followed[run_id].log
            # Who comes to read it only now would wait for news for ever.
            log.part(Restarting(log.turn_id, log.conversation_id))
        self._followed = wanted
        try:
            await self._poll(list(self._followed.values()))
        except DatabaseUnavailable:
            raise
        except Exception:
            for each in self.logs:
                each.end(AppError("The service failed; the turn itself goes on."))
            raise

    async def _poll(self, followed: "Sequence[Followed]") -> None:
        async with self._polling:  # two polls at once would read the same chunks
            if followed := [each for each in followed if each.log.ended is None]:
                places = [each.place for each in followed]
                news, ends = await self._database.run(
                    EVERYONE, lambda session: news_and_ends(session, places)
                )
                for each in followed:
                    each.take([chunk for chunk in news if chunk.run_id == each.place.run_id])
                    if end := ends.get(each.place.run_id):
                        each.log.conclude(*end)


class Followed:
    """A run's log and how far it was read from the database."""

    def __init__(self, turn: Turn) -> None:
        self.log = TurnLog(turn.id, turn.conversation_id)
        self.place = Place(
            turn_id=turn.id, conversation_id=turn.conversation_id, run_id=turn.run_id, position=0
        )
        self._polls_unread = 0

    def is_wanted(self) -> bool:
        """Asked once a poll: whether it goes on, and somebody reads it or may be just about to."""
        self._polls_unread = 0 if self.log.readers else self._polls_unread + 1
        return self.log.ended is None and self._polls_unread < UNREAD_POLLS

    def take(self, news: Sequence[Chunk]) -> None:
        for chunk in news:
            self.log.add(*chunk.events)
            self.place = replace(self.place, position=chunk.position + 1)


async def find(session: AsyncSession, user_id: str, conversation_id: int, turn_id: int | None) -> Turn | None:
    """The turn of that id, or without one the conversation's active turn, if it has one.

    Raises `ConversationNotFound` and `TurnNotFound`.
    """
    await store.own_conversation(session, user_id, conversation_id)
    of_conversation = select(Turn).where(Turn.user_id == user_id, Turn.conversation_id == conversation_id)
    if turn_id is None:
        return await session.scalar(of_conversation.where(Turn.status == RUNNING, store.turn_is_alive))
    turn = None if turn_id > MAX_ID else await session.scalar(of_conversation.where(Turn.id == turn_id))
    if turn is None:
        raise TurnNotFound(turn_id)
    return turn


async def news_and_ends(
    session: AsyncSession, places: Sequence[Place]
) -> tuple[Sequence[Chunk], dict[str, "Ending"]]:
    """What was said since, and how those ended which have."""
    running = await session.scalars(
        select(Turn.run_id).where(
            Turn.run_id.in_([place.run_id for place in places]),
            Turn.status == RUNNING,
            store.turn_is_alive,
        )
    )
    alive = set(running)
    news = await chunks.read(session, places)
    ends = {place.run_id: await ending(session, place) for place in places if place.run_id not in alive}
    return news, ends


class Ending(NamedTuple):
    """How a turn ended: with what was stored of its answer, if anything was, and if it was not answered, why."""

    stored: ChatAnswer | None
    failure: AppError | None


async def ending(session: AsyncSession, place: Place) -> Ending:
    turn = await session.scalar(select(Turn).where(Turn.id == place.turn_id))
    ids: dict[str, Any] = {"turn_id": place.turn_id, "conversation_id": place.conversation_id}
    if turn is None:  # deleted with its conversation
        return Ending(None, TurnCancelled(**ids))
    if turn.run_id != place.run_id or turn.status == "running":
        return Ending(None, restored(store.ABANDONED, **ids))
    if turn.status == "failed" and turn.error is not None:
        return Ending(await store.answer_of(session, turn), restored(turn.error, **ids))
    return Ending(
        await store.answer_of(session, turn),
        TurnCancelled(**ids) if turn.status == "cancelled" else None,
    )
