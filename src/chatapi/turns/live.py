"""Follows turns that run in another process, with one poll of the database for all their readers."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from chatapi.db.models import Turn
from chatapi.errors.base import Defect
from chatapi.errors.database import DatabaseUnavailable
from chatapi.errors.turns import StreamNotRead
from chatapi.patience import Patience
from chatapi.turns.log import TurnLog
from chatapi.turns.loops import every
from chatapi.turns.replay import rest_of
from chatapi.turns.store import TurnStore, Waited
from chatapi.turns.store.live import Chunk, Place

UNREAD_POLLS = 20  # then an unread log is dropped; its reader comes a moment after it is made


class LiveTurns:
    """The logs of turns that run elsewhere, each shared by its readers here."""

    def __init__(self, store: TurnStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self._followed: dict[str, Followed] = {}
        self._polling = asyncio.Lock()

    @property
    def logs(self) -> list[TurnLog]:
        return [followed.log for followed in self._followed.values()]

    async def follow(self, turn: Turn) -> TurnLog:
        """The turn's log, which fills from the database; raises `DatabaseUnavailable`."""
        followed = self._followed.get(turn.run_id)
        if followed is None:
            before = await self._store.waited(turn)
            followed = self._followed.setdefault(turn.run_id, Followed(turn, before))
        await self._poll([followed])
        return followed.log

    async def run(self) -> None:
        """Poll until cancelled; while nobody reads, the database is not asked."""
        await every(
            self._patience.poll,
            self._poll_wanted,
            absence="Turns of other processes are not seen while the database is away",
        )

    async def _poll_wanted(self) -> None:
        wanted = {run_id: each for run_id, each in self._followed.items() if each.is_wanted()}
        for run_id in self._followed.keys() - wanted.keys():
            log = self._followed[run_id].log
            # A reader that comes now would never be woken, so it is sent on.
            log.part(StreamNotRead())
        self._followed = wanted
        try:
            await self._poll(list(self._followed.values()))
        except DatabaseUnavailable:
            raise
        except Exception:
            for each in self.logs:
                each.part(Defect("The service failed; the turn itself goes on."))
            raise

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


class Followed:
    """A run's log and how far it was read from the database."""

    def __init__(self, turn: Turn, before: Waited | None) -> None:
        self.log = TurnLog(turn.id, turn.conversation_id, wait=0 if before is None else before.number)
        if before is not None:
            self.log.add(*before.events)
        self.place = Place(
            turn_id=turn.id, conversation_id=turn.conversation_id, run_id=turn.run_id, position=0
        )
        self._polls_unread = 0

    def is_wanted(self) -> bool:
        """Whether the turn goes on and has a reader or may soon get one; called once a poll."""
        self._polls_unread = 0 if self.log.readers else self._polls_unread + 1
        return self.log.ended is None and self._polls_unread < UNREAD_POLLS

    def take(self, news: Sequence[Chunk]) -> None:
        for chunk in news:
            self.log.add(*chunk.events)
            self.place = replace(self.place, position=chunk.position + 1)
