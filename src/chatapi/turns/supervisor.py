"""Watches over this process's turns: cancels, chunks for readers elsewhere, lost runs, and the drain at shutdown."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import Context

from chatapi.errors.base import Defect
from chatapi.errors.turns import Restarting
from chatapi.patience import Patience
from chatapi.turns.live import LiveTurns
from chatapi.turns.log import TurnLog
from chatapi.turns.loops import every
from chatapi.turns.runner import Runner
from chatapi.turns.store import TurnStore
from chatapi.turns.store.live import Chunk

log = logging.getLogger(__name__)

SETTLING_TRIES = 3  # at the shutdown, to write the ends of turns
STREAM_GRACE_SECONDS = 5.0  # a turn that ends this soon after a SIGTERM also ends for its reader
# How often to look for a lost run, twice a second while the database answers: a COMMIT that was sent before the outage,
# or that waits for the disk, may take effect after the database's first answer.
LOOKS = 120


class Supervisor:
    """Supervises one process's turns. `live` follows the turns of other processes that are read here."""

    def __init__(self, store: TurnStore, patience: Patience) -> None:
        self.live = LiveTurns(store, patience)
        self.is_draining = False
        self._store = store
        self._patience = patience
        self._tasks: set[asyncio.Task[None]] = set()
        self._runners: dict[str, Runner] = {}
        self._stateless: set[Runner] = (
            set()
        )  # no database knows of these, and no other process could end them
        self._began: dict[str, float] = {}  # when each run began, by the event loop's clock
        # Runs that nobody runs but the database may take for running, with the looks that are left. While this process
        # lives, no other process may end its turns, so these would block their conversations.
        self._lost: dict[str, int] = {}

    def spawn(self, turn: Coroutine[None, None, None], context: Context | None = None) -> None:
        """Run a turn in a task of its own: a client that hangs up ends its request and not its turn."""
        task = asyncio.create_task(turn, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def look_after(self, runner: Runner) -> None:
        """Carry a run out; after a defect, keep it from blocking its conversation."""
        run_id = runner.run.run_id
        self._runners[run_id] = runner
        self._began[run_id] = asyncio.get_running_loop().time()
        try:
            await runner.carry_out()
        except Exception:
            log.exception("A defect in turn %s", runner.run.turn_id)
            self.lose(run_id)
            runner.log.end(Defect("The service failed; its log has the turn's id."))
        finally:
            del self._runners[run_id], self._began[run_id]

    async def look_after_stateless(self, runner: Runner) -> None:
        """Carry out a run that has no turn: it ends with this process, or with its request."""
        self._stateless.add(runner)
        try:
            await runner.carry_out()
        except Exception:
            log.exception("A defect in a stateless completion")
            runner.log.end(Defect("The service failed; its log has the request's id."))
        finally:
            self._stateless.discard(runner)

    def lose(self, run_id: str) -> None:
        """Fail the run's turn once the database answers: its begin may be stored unheard, or its end may not be.

        A run's id is made for it alone, so no other run is ever failed.
        """
        self._lost[run_id] = LOOKS

    def log_of(self, run_id: str) -> TurnLog | None:
        """The log of a run of this process."""
        runner = self._runners.get(run_id)
        return None if runner is None else runner.log

    def tell_title(self, user_id: str, conversation_id: int, title: str) -> None:
        """Let the streams of the conversation's turn under way, if it runs here, tell its new title."""
        for runner in self._runners.values():
            if (runner.run.user_id, runner.run.conversation_id) == (user_id, conversation_id):
                runner.log.title = title

    def tell_summary(self, user_id: str, conversation_id: int, turn_id: int) -> None:
        """Likewise, that the conversation is summed up until this turn."""
        for runner in self._runners.values():
            if (runner.run.user_id, runner.run.conversation_id) == (user_id, conversation_id):
                runner.log.summarized_until = turn_id

    def log_of_turn(self, turn_id: int) -> TurnLog | None:
        """The log of the turn's run, if it runs in this process."""
        return next((each.log for each in self._runners.values() if each.run.turn_id == turn_id), None)

    async def watch(self) -> None:
        """Look after the turns here, until cancelled.

        Stop those that others cancelled, deleted or took over; write down what they have said, for readers elsewhere;
        and fail lost ones.
        """
        await every(
            self._patience.watch,
            self._watch,
            absence="Cancels are not seen, and nothing is shown elsewhere, while the database is away",
        )

    async def stop_cancelled(self) -> None:
        await self._look_at(list(self._runners), [])

    async def drain(self, seconds: float) -> None:
        """Wait for running turns, then end what is left as interrupted; for the shutdown.

        Streaming clients are told before that, and may read on from another process; but those of a run without a turn read
        to its end.
        """
        self.is_draining = True
        grace = min(seconds, STREAM_GRACE_SECONDS)
        part(self.live.logs)
        await self._wait(grace)
        part(runner.log for runner in self._runners.values())
        await self._wait(seconds - grace)
        for each in self.live.logs:
            each.lose(Restarting().with_turn(each.turn_id, each.conversation_id))
        for runner in [*self._runners.values(), *self._stateless]:
            runner.stop("interrupted")
        for task in await self._wait(self._patience.settle * SETTLING_TRIES):
            task.cancel()

    async def _wait(self, seconds: float) -> set[asyncio.Task[None]]:
        """Wait for the turns under way; gives those that are not done."""
        return (await asyncio.wait(self._tasks, timeout=seconds))[1] if self._tasks else set()

    async def _watch(self) -> None:
        """Look at the turns here; those that have just begun may end before the next look, and cost no statement."""
        before = asyncio.get_running_loop().time() - self._patience.watch / 2
        run_ids = [run_id for run_id in self._runners if self._began[run_id] <= before]
        chunks = (self._runners[run_id].unwritten() for run_id in run_ids)
        await self._look_at(run_ids, [chunk for chunk in chunks if chunk is not None])
        await self._fail_lost()

    async def _look_at(self, run_ids: Sequence[str], chunks: Sequence[Chunk]) -> None:
        """One statement, however many the turns are."""
        if not run_ids:
            return
        going_on, written = await self._store.watch(run_ids, chunks)
        for run_id in self._runners.keys() & set(run_ids):
            if run_id in written:
                self._runners[run_id].wrote()
            if run_id not in going_on:
                self._runners[run_id].stop("cancelled")

    async def _fail_lost(self) -> None:
        if self._lost:
            found = await self._store.fail_runs(list(self._lost))
            self._lost = {
                run_id: looks - 1 for run_id, looks in self._lost.items() if looks > 1 and run_id not in found
            }


def part(logs: Iterable[TurnLog]) -> None:
    """Send the streaming readers of these turns to another process."""
    for each in list(logs):
        each.part(Restarting().with_turn(each.turn_id, each.conversation_id))
