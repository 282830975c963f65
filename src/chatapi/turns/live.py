"""Follows turns that run in another process or are queued, with one poll of the database for all their readers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from chatapi.db.models import Turn
from chatapi.errors.base import Defect
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import StreamNotRead, TurnCancelled
from chatapi.patience import Patience
from chatapi.turns.log import TurnLog
from chatapi.turns.loops import every
from chatapi.turns.replay import rest_of
from chatapi.turns.store import Queued, TurnStore, Waited
from chatapi.turns.store.live import Chunk, Place

UNREAD_POLLS = 20  # then an unread log is dropped; its reader comes a moment after it is made

KeyT = TypeVar("KeyT")
ReadT = TypeVar("ReadT", bound="Read")


class LiveTurns:
    """The logs of turns that run elsewhere, or are queued, each shared by its readers here."""

    def __init__(self, store: TurnStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self._followed: dict[str, Followed] = {}
        self._queued: dict[int, InQueue] = {}
        self._polling = asyncio.Lock()

    @property
    def logs(self) -> list[TurnLog]:
        return [each.log for each in (*self._followed.values(), *self._queued.values())]

    async def follow(self, turn: Turn) -> TurnLog:
        """The turn's log, which fills from the database; raises `DatabaseUnavailable`."""
        followed = self._followed.get(turn.run_id)
        if followed is None:
            before = await self._store.waited(turn)
            log = self.begun_here(turn.id)
            followed = self._followed.setdefault(turn.run_id, Followed(turn, before, log))
        await self._poll([followed])
        return followed.log

    def queue(self, place: Queued) -> TurnLog:
        """The log of a queued turn, which fills when the turn has begun, here or elsewhere."""
        return self._queued.setdefault(place.turn_id, InQueue(place)).log

    def begun_here(self, turn_id: int) -> TurnLog | None:
        """The log that a queued turn's readers have, for the run that has begun; None without readers."""
        if (each := self._queued.pop(turn_id, None)) is None:
            return None
        each.log.begin()
        return each.log

    async def run(self, begin_next: Callable[[str, int], None]) -> None:
        """Poll until cancelled; while nobody reads, the database is not asked.

        `begin_next` begins the first turn that is queued in a user's conversation.
        """

        async def poll() -> None:
            try:
                await self._poll_wanted()
                stalled = await self._poll_queue()
            except DatabaseUnavailable:
                raise
            except Exception:
                for each in self.logs:
                    each.lose(Defect("The service failed; the turn itself goes on."))
                raise
            for user_id, conversation_id in stalled:
                begin_next(user_id, conversation_id)

        await every(
            self._patience.poll,
            poll,
            absence="Turns of other processes are not seen while the database is away",
        )

    async def _poll_wanted(self) -> None:
        self._followed = wanted(self._followed)
        await self._poll(list(self._followed.values()))

    async def _poll_queue(self) -> set[tuple[str, int]]:
        """Look what has become of queued turns; returns the conversations of those that nobody runs."""
        self._queued = wanted(self._queued)
        if not self._queued:
            return set()
        asked = list(self._queued.values())
        news = await self._store.queue_news([each.place for each in asked])
        for each in asked:
            turn_id = each.place.turn_id
            if turn_id not in self._queued or turn_id in news.queued:
                continue  # it has begun here meanwhile, or is queued still
            if (turn := news.begun.get(turn_id)) is not None:
                await self.follow(turn)
            else:
                del self._queued[turn_id]
                each.log.end(TurnCancelled())
        return news.stalled

    async def _poll(self, followed: "Sequence[Followed]") -> None:
        async with self._polling:  # two polls at once would read the same chunks
            if followed := [each for each in followed if each.log.ended is None]:
                places = [each.place for each in followed]
                news, ends = await self._store.news(places)
                for each in followed:
                    each.take([chunk for chunk in news if chunk.run_id == each.place.run_id])
                    if end := ends.get(each.place.run_id):
                        each.log.add(*rest_of(end.events, each.log.events))
                        each.log.end(end.outcome)


class Read:
    """A log that is kept while it is read. `place` says where in the database its turn is."""

    def __init__(self, log: TurnLog) -> None:
        self.log = log
        self._polls_unread = 0

    def is_wanted(self) -> bool:
        """Whether the turn goes on and has a reader or may soon get one; called once a poll."""
        self._polls_unread = 0 if self.log.readers else self._polls_unread + 1
        return self.log.ended is None and self._polls_unread < UNREAD_POLLS


class InQueue(Read):
    """The log of a queued turn."""

    def __init__(self, place: Queued) -> None:
        super().__init__(TurnLog(place.turn_id, place.conversation_id, queued=True))
        self.place = place


class Followed(Read):
    """A run's log and how far it was read from the database."""

    def __init__(self, turn: Turn, before: Waited | None, log: TurnLog | None = None) -> None:
        super().__init__(
            log or TurnLog(turn.id, turn.conversation_id, wait=0 if before is None else before.number)
        )
        if before is not None:
            self.log.add(*before.events)
        self.place = Place(
            user_id=turn.user_id,
            turn_id=turn.id,
            conversation_id=turn.conversation_id,
            run_id=turn.run_id,
            position=0,
        )

    def take(self, news: Sequence[Chunk]) -> None:
        for chunk in news:
            self.log.add(*chunk.events)
            self.place = replace(self.place, position=chunk.position + 1)


def wanted(logs: dict[KeyT, ReadT]) -> dict[KeyT, ReadT]:
    """Those that are wanted still. A reader of another that comes now would never be woken, so it is sent on."""
    kept = {key: each for key, each in logs.items() if each.is_wanted()}
    for key in logs.keys() - kept.keys():
        logs[key].log.part(StreamNotRead())
    return kept
