"""The store of turns: each method is one short transaction, tried again while the database's trouble passes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import ToolCall
from chatapi.db.database import Database, Work
from chatapi.db.models import Turn
from chatapi.db.owner import EVERYONE
from chatapi.errors.domains import ConversationNotFound
from chatapi.turns.schemas import (
    AnswerAnew,
    AnswersRequest,
    ChatRequest,
    Terms,
    WaitingAnswer,
    WaitingTurn,
)
from chatapi.turns.store import answers, asked, begin, end, journal, live, queue, queued, waits
from chatapi.turns.store.answers import Given, Waiting
from chatapi.turns.store.asked import AskedTurn
from chatapi.turns.store.live import Chunk, Ending, Place, Watched
from chatapi.turns.store.queue import Queued, QueueLook, QueueNews
from chatapi.turns.store.rows import Claim, Ended, Finished, Key, Run, Said, Shown, Stored, Waited
from chatapi.turns.store.title import Title, Titler, give_title
from chatapi.turns.store.waits import Due, Look
from chatapi.usage.counting import Spent, count, count_alone


class TurnStore:
    """All methods raise `DatabaseUnavailable` when the trouble lasts.

    A COMMIT that was cut off may have happened, so a second try looks for what the first one wrote.
    """

    def __init__(self, database: Database, titler: Titler | None = None) -> None:
        self._database = database
        self._titler = titler

    async def begin(
        self, user_id: str, request: ChatRequest | AnswerAnew, key: Key | None, claim: Claim
    ) -> Run | Queued | Stored:
        """Own the conversation or make it, claim its one active turn, store the user's message, read the history.

        A key that was seen before runs its turn again if that failed or was abandoned, and returns its answer if it
        has one. A request that says so is queued behind the conversation's other turns. Raises `ConversationNotFound`,
        `TurnInProgress`, `QueueFull`; for keys `KeyReused`, `KeyInProgress`,
        `TurnSuperseded` and `TurnCancelled`; for an `AnswerAnew` `TurnNotFound`, and `TurnSuperseded` when the
        conversation has gone on. Raises `BudgetExceeded` where a turn would begin or run again.
        """
        return await self._database.tried(
            lambda is_retry: self._begin(user_id, request, key, claim, is_retry)
        )

    async def _begin(
        self,
        user_id: str,
        request: ChatRequest | AnswerAnew,
        key: Key | None,
        claim: Claim,
        is_retry: bool,  # noqa: FBT001 - `Database.tried` passes it by position
    ) -> Run | Queued | Stored:
        async with self._database.transaction(user_id) as session:
            if is_retry:
                if (run := await begin.begun(session, user_id, claim, request.terms)) is not None:
                    return run
                if (place := await queue.of_claim(session, user_id, claim)) is not None:
                    return place
            return await begin.begin(session, user_id, request, key, claim)

    async def begin_queued(self, user_id: str, conversation_id: int, claim: Claim) -> Run | None:
        """Begin the first turn that is queued in this conversation; None if nothing is, or another turn is under way."""
        terms: list[Terms] = []  # kept for a second try, because the queue's row is gone by then

        async def work(session: AsyncSession) -> Run | None:
            run = await queued.begin_queued(session, user_id, conversation_id, claim)
            terms[:] = () if run is None else [run.terms]
            return run

        return await self._database.run(
            user_id, work, lambda session: begin.begun(session, user_id, claim, *(terms or [Terms()]))
        )

    async def seen(self, user_id: str, key: Key) -> Stored | None:
        """The stored answer to a request with this key, or None if its turn is to be begun or run again.

        Raises `KeyReused`, `TurnCancelled` and `KeyInProgress`.
        """
        return await self._database.run(user_id, lambda session: begin.seen(session, user_id, key))

    async def finish(self, run: Run, said: Said, shown: Shown) -> Finished:
        """Store the answer and end the turn; if `shown` tells of chunks, delete these.

        Raises `TurnCancelled` when the turn is no longer this run's; so do `fail` and `cancel`. These return whether
        another turn is queued behind this one.
        """
        return await self._database.tried(lambda is_retry: self._finish(run, said, shown, is_retry))

    async def _finish(
        self,
        run: Run,
        said: Said,
        shown: Shown,
        is_retry: bool,  # noqa: FBT001 - as above
    ) -> Finished:
        title = self._title_for(run)
        is_titled = False
        async with self._database.transaction(run.user_id) as session:
            finished = await end.finished(session, run) if is_retry else None
            if finished is None:
                finished = await end.finish(session, run, said)
                if shown != "nothing":
                    await live.drop(session, run.user_id, run.turn_id)
                is_titled = await give_title(session, run, title)
                await count_rest(session, run, said)
        self._tell_title(run, title, is_titled=is_titled)
        return finished

    def _title_for(self, run: Run) -> Title | None:
        return None if self._titler is None else self._titler.title_for(run)

    def _tell_title(self, run: Run, title: Title | None, *, is_titled: bool) -> None:
        if is_titled and title is not None and self._titler is not None:
            self._titler.given(run, title)

    async def fail(self, run: Run, said: Said, error: dict[str, Any]) -> bool:
        """End the turn as failed; keep and show what it had said and done, but never to a model."""

        async def work(session: AsyncSession) -> bool:
            is_followed = await end.fail(session, run, said, error)
            await live.drop(session, run.user_id, run.turn_id)
            await count_rest(session, run, said)
            return is_followed

        return await self._database.run(run.user_id, work)

    async def wait(self, run: Run, said: Said, waiting: Waiting) -> WaitingAnswer:
        """Let the turn wait for answers; raises `TurnCancelled` as `finish` does."""

        async def work(session: AsyncSession) -> WaitingAnswer:
            # Asked each time: after an outage the run's end is tried anew, and an earlier COMMIT may have gone through.
            if (written := await answers.waited(session, run)) is not None:
                return written
            answer = await answers.wait(session, run, said, waiting)
            await count_rest(session, run, said)
            return answer

        return await self._database.run(run.user_id, work)

    async def answer(
        self, user_id: str, turn_id: int, request: AnswersRequest, key: Key | None, claim: Claim
    ) -> Run | WaitingAnswer | Given:
        """Store answers to calls for which a turn waits. If all have one, the turn is the claim's to run.

        Otherwise the rest of what is pending is returned. Answers that were given before change nothing, but run the
        turn again if the run that they had begun has failed or died.
        Raises `TurnNotFound`, `NotWaiting`, `Invalid`, `KeyReused` and `TurnSuperseded`.
        """
        return await self._database.run(
            user_id,
            lambda session: answers.answer(session, user_id, turn_id, request, key, claim),
            lambda session: begin.begun(session, user_id, claim, Terms()),
        )

    async def waiting(self, user_id: str, limit: int, before: int | None) -> Sequence[WaitingTurn]:
        """The user's turns that wait, newest first."""
        return await self._database.read(user_id, lambda session: waits.page(session, user_id, limit, before))

    async def waits_due(self, limit: int) -> Look:
        """Everybody's turns that wait; finds `limit` that are to be ended at the most, of each kind."""
        return await self._database.read(EVERYONE, lambda session: waits.look(session, limit))

    async def end_wait(self, due: Due) -> Ended | None:
        """End a turn in the middle of its wait; None if it has gone on, has ended or was deleted meanwhile."""

        async def work(session: AsyncSession) -> Ended | None:
            try:
                await end.touch_conversation(session, due.user_id, due.conversation_id)
            except ConversationNotFound:
                return None
            return await end.end_wait(session, due.user_id, due.turn_id, due.by)

        return await self._database.run(due.user_id, work)

    async def cancel(self, run: Run, said: Said) -> bool:
        """End the turn as cancelled; keep what it had said and done, also for later history."""

        async def work(session: AsyncSession) -> bool:
            is_followed = await end.finish_cancelled(session, run, said)
            await live.drop(session, run.user_id, run.turn_id)
            await count_rest(session, run, said)
            return is_followed

        return await self._database.run(run.user_id, work)

    async def count_lost(self, run: Run, said: Said, since: datetime) -> None:
        """Count what a run has used whose turn is no longer its own, if that was not counted with the turn's end.

        `since` is when the run began: what a user who was erased meanwhile has used is not counted.
        Nothing is left that would tell whether a COMMIT went through, so after one that was cut off nothing is counted
        again: better too little than twice.
        """
        counted: list[bool] = []  # true from before the first COMMIT on

        async def work(session: AsyncSession) -> bool:
            if not await end.has_counted(session, run, said.usage):
                spent = await journal.uncounted(session, run, said)
                await count_alone(session, run.user_id, run.conversation_id, spent, since)
            counted.append(True)
            return True

        async def recover(_: AsyncSession) -> bool | None:
            return True if counted else None

        await self._database.run(run.user_id, work, recover)

    async def fail_runs(self, run_ids: Sequence[str]) -> set[str]:
        """End the turns of these runs as abandoned; returns the runs that had one."""
        return await self._database.run(EVERYONE, lambda session: end.fail_runs(session, run_ids))

    async def request_cancel(self, user_id: str, turn_id: int) -> Ended | None:
        """Ask the process that runs the turn to end it, or end it here if that process is dead or the turn waits.

        A turn that is queued is taken out. Raises `TurnNotFound` and `TurnEnded`.
        """
        return await self._database.run(
            user_id, lambda session: end.request_cancel(session, user_id, turn_id)
        )

    async def watch(self, run_ids: Sequence[str], chunks: Sequence[Chunk]) -> Watched:
        """Look at these runs, and store chunks of theirs for readers elsewhere.

        A run goes on unless it was asked to end or its turn is no longer its own. The chunks of a turn that another
        transaction has locked are left for the next time, rather than waited for.
        """
        return await self._database.run(EVERYONE, lambda session: live.watch(session, run_ids, chunks))

    async def take_out(self, user_id: str, turn_id: int) -> None:
        """Take a turn out of its queue; raises `TurnNotFound`, and `NotQueued` when it has begun."""
        await self._database.run(user_id, lambda session: end.take_out(session, user_id, turn_id))

    async def queue_news(self, places: Sequence[Queued]) -> QueueNews:
        """What has become of these queued turns."""
        return await self._database.read(EVERYONE, lambda session: queue.news(session, places))

    async def queue_look(self) -> QueueLook:
        """Everybody's queues."""
        return await self._database.read(EVERYONE, queue.look)

    async def hold(self, run: Run) -> None:
        """Raise `TurnCancelled` when the turn is no longer this run's."""
        await self._database.run(run.user_id, lambda session: journal.hold(session, run))

    async def call(
        self,
        run: Run,
        position: int,
        effect: Work[ToolCall],
        spent: Sequence[Spent] = (),
        *,
        writes: bool,  # noqa: ARG002 - it makes a difference on PostgreSQL alone
    ) -> ToolCall:
        """Carry out a call of a tool, journal it and count what was spent, in one transaction.

        `writes`: the effect writes to this database. Raises `TurnCancelled` as `hold` does.
        """

        async def work(session: AsyncSession) -> ToolCall:
            call = await effect(session)
            await journal.record_call(session, run, position, call, spent)
            return call

        return await self._database.run(
            run.user_id, work, lambda session: journal.written(session, run, position)
        )

    async def settle_call(self, run: Run, position: int, call: ToolCall) -> None:
        """Give the outcome of a call that was journaled when it began; raises `TurnCancelled` as `hold` does."""
        await self._database.run(run.user_id, lambda session: journal.settle(session, run, position, call))

    async def find(self, user_id: str, conversation_id: int, turn_id: int | None) -> Turn | Queued | None:
        """The turn with this id, or else the conversation's active turn, or the first that is queued; None without any.

        Raises `ConversationNotFound` and `TurnNotFound`.
        """
        return await self._database.read(
            user_id, lambda session: live.find(session, user_id, conversation_id, turn_id)
        )

    async def asked(self, user_id: str, turn_id: int) -> AskedTurn:
        """The turn with this id, queued ones too, and what it was asked for; raises `TurnNotFound`."""
        return await self._database.read(user_id, lambda session: asked.find(session, user_id, turn_id))

    async def place(self, user_id: str, turn_id: int) -> tuple[int, int]:
        """The turn's conversation, and the number of its last wait that was answered; raises `TurnNotFound`."""
        found = await self._database.read(user_id, lambda session: asked.place(session, user_id, turn_id))
        if found is not None:
            return found
        queued = await self.asked(user_id, turn_id)
        return queued.conversation_id, queued.went_on

    async def remove(self, user_id: str, turn_id: int, *, alone: bool) -> None:
        """Delete a turn, whatever it is doing, with its messages; raises `TurnNotFound`.

        `alone`: its conversation goes with it if no other turn is in that.
        """
        await self._database.run(
            user_id, lambda session: asked.remove(session, user_id, turn_id, alone=alone)
        )

    async def waited(self, turn: Turn) -> Waited | None:
        """The wait from which the turn's run went on, if it runs and has waited."""
        if turn.status != "running" or turn.waits:
            return None
        return await self._database.read(
            turn.user_id, lambda session: waits.answered(session, turn.user_id, turn.id)
        )

    async def news(self, places: Sequence[Place]) -> tuple[Sequence[Chunk], dict[str, Ending]]:
        """The chunks since these places, and by run id the endings of the turns that have ended."""
        return await self._database.read(EVERYONE, lambda session: live.news_and_ends(session, places))


async def count_rest(session: AsyncSession, run: Run, said: Said) -> None:
    """Count what was not counted with the run's calls, as the last thing in the transaction that ends it."""
    await count(session, run.user_id, run.conversation_id, await journal.uncounted(session, run, said))
