"""The queue of a conversation in the store, whatever two replicas do to it at once."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from chatapi.db.database import Database
from chatapi.db.models import Worker
from chatapi.errors.turns import (
    NotQueued,
    NotWaiting,
    QueueFull,
    Restarting,
    TurnCancelled,
    TurnEnded,
    TurnInProgress,
    TurnNotFound,
    TurnSuperseded,
)
from chatapi.patience import Patience
from chatapi.turns.log import TextAdded, ToolStarted
from chatapi.turns.schemas import Answer, AnswersRequest, ChatRequest, Pending
from chatapi.turns.store import Claim, Queued, Run, Said, TurnStore, turn_store
from chatapi.turns.store.answers import Waiting
from chatapi.turns.supervisor import Supervisor
from tests.support.databases import open_database
from tests.support.serving import settings_for

FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)
CALL = ToolStarted(id="c", name="clock", arguments={}, asks="client-tool")
PENDING = Pending(id="c", kind="client-tool", tool_call_id="c", name="clock", arguments={})
REFUSED = (
    NotQueued,
    NotWaiting,
    TurnSuperseded,
    QueueFull,
    TurnInProgress,
    TurnCancelled,
    TurnEnded,
    TurnNotFound,
)
ACTS = (
    "send",
    "queue",
    "queue",
    "queue",
    "interrupt",
    "finish",
    "finish",
    "fail",
    "wait",
    "answer",
    "cancel",
    "take out",
    "die",
    "look",
)


class Replicas:
    """Two replicas and one conversation. A replica does what the service does at its place: it begins what is queued."""

    def __init__(self, database: Database) -> None:
        self.user_id = uuid4().hex
        self.conversation_id = 0
        self.taken: dict[int, str] = {}  # the messages that were accepted, by their turns
        self.gone: set[int] = set()  # those that were taken out
        self._database = database
        self._store = turn_store(database)
        self._workers = ["", ""]
        self._runs: list[dict[int, Run]] = [{}, {}]
        self._waiting: set[int] = set()
        self._sent = 0

    async def start(self) -> None:
        for replica in range(2):
            await self._begin_life(replica)
        first = await self._store.begin(self.user_id, ChatRequest(message="first"), None, self._claim(0))
        assert isinstance(first, Run)
        self.conversation_id = first.conversation_id
        self._take(0, first, "first")

    async def step(self, *acts: tuple[str, int]) -> None:
        """Do these at once."""
        await asyncio.gather(*(self._act(act, replica) for act, replica in acts))
        await self.check([act for act, _ in acts])

    async def _act(self, act: str, replica: int) -> None:
        with suppress(*REFUSED):
            await getattr(self, "_" + act.replace(" ", "_"))(replica)

    async def settle(self) -> None:
        """Let both replicas go on until nothing is left to do."""
        for _ in range(60):
            for replica in range(2):
                for act in ("answer", "finish", "look"):
                    await self.step((act, replica))
            if not await self._under_way():
                return
        raise AssertionError("something is queued that nobody begins")

    async def check(self, acts: Sequence[str]) -> None:
        """Never two turns at once, each question before its answer in the order of arrival, nothing lost, nothing twice."""
        turns = await self._rows("SELECT id, status FROM turns WHERE user_id = :user")
        queued = await self._rows("SELECT id FROM queued_turns WHERE user_id = :user")
        messages = await self._rows(
            "SELECT turn_id, role, content FROM messages WHERE user_id = :user ORDER BY id"
        )
        assert [status for _, status in turns].count("running") <= 1
        order = [turn_id for turn_id, *_ in messages]
        assert order == sorted(order)
        asked = {turn_id: content for turn_id, role, content in messages if role == "user"}
        assert len({(turn_id, role) for turn_id, role, _ in messages}) == len(messages)
        assert asked.keys() == {turn_id for turn_id, _ in turns}
        assert asked.items() <= self.taken.items()
        gone = self.taken.keys() - asked.keys() - {turn_id for (turn_id,) in queued}
        if "interrupt" not in acts:
            assert len(gone - self.gone) <= acts.count("cancel") + acts.count("take out")
        self.gone |= gone

    async def _send(self, replica: int, when_busy: Any = None) -> None:
        self._sent += 1
        message = f"{when_busy} {self._sent}"
        how = {} if when_busy is None else {"when_busy": when_busy}
        request = ChatRequest(message=message, conversation_id=self.conversation_id, **how)
        self._take(
            replica, await self._store.begin(self.user_id, request, None, self._claim(replica)), message
        )

    async def _queue(self, replica: int) -> None:
        await self._send(replica, "queue")

    async def _interrupt(self, replica: int) -> None:
        await self._send(replica, "interrupt")
        await self._stop_cancelled()

    async def _finish(self, replica: int) -> None:
        for run in self._take_runs(replica):
            said = Said(events=[TextAdded("answer")], tool_calls=[])
            if (await self._store.finish(run, said, "nothing")).is_followed:
                await self._begin_next(replica)

    async def _fail(self, replica: int) -> None:
        for run in self._take_runs(replica):
            error = {"type": "model-failed", "detail": "x"}
            if await self._store.fail(run, Said(events=[], tool_calls=[]), error):
                await self._begin_next(replica)

    async def _wait(self, replica: int) -> None:
        for run in self._take_runs(replica):
            waiting = Waiting(pending=[PENDING], state=None, seconds=1_000)
            await self._store.wait(run, Said(events=[CALL], tool_calls=[]), waiting)
            self._waiting.add(run.turn_id)

    async def _answer(self, replica: int) -> None:
        for turn_id in list(self._waiting):
            self._waiting.discard(turn_id)
            given = [Answer(id="c", output={})]
            answers = AnswersRequest(answers=given)
            run = await self._store.answer(self.user_id, turn_id, answers, None, self._claim(replica))
            if isinstance(run, Run):
                self._runs[replica][turn_id] = run

    def _take_runs(self, replica: int) -> Iterator[Run]:
        while self._runs[replica]:
            yield self._runs[replica].popitem()[1]

    async def _cancel(self, replica: int) -> None:
        """Cancel the newest turn, queued or not."""
        turn_id = max(self.taken)
        await self._store.request_cancel(self.user_id, turn_id)
        await self._stop_cancelled()

    async def _take_out(self, replica: int) -> None:
        await self._store.take_out(self.user_id, max(self.taken))

    async def _die(self, replica: int) -> None:
        worker = self._workers[replica]
        self._runs[replica].clear()
        async with self._database.transaction(None) as session:
            await session.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker})
        await self._begin_life(replica)

    async def _look(self, replica: int) -> None:
        for due in (await self._store.waits_due(50)).due:  # one that was interrupted while it began to wait
            if due.user_id == self.user_id:
                await self._store.end_wait(due)
        for user_id, conversation_id in (await self._store.queue_look()).stalled:
            if (user_id, conversation_id) == (self.user_id, self.conversation_id):
                await self._begin_next(replica)

    async def _begin_next(self, replica: int) -> None:
        run = await self._store.begin_queued(self.user_id, self.conversation_id, self._claim(replica))
        if run is not None:
            assert self.taken.get(run.turn_id, run.message) == run.message
            self._runs[replica][run.turn_id] = run

    async def _stop_cancelled(self) -> None:
        for replica, runs in enumerate(self._runs):
            running = {run.run_id: run for run in runs.values()}
            watched = await self._store.watch(list(running), [])
            for run_id in running.keys() - watched.going_on:
                run = runs.pop(running[run_id].turn_id, None)
                if run is not None and await self._store.cancel(run, Said(events=[], tool_calls=[])):
                    await self._begin_next(replica)

    def _take(self, replica: int, begun: Any, message: str) -> None:
        assert isinstance(begun, Run | Queued)
        self.taken[begun.turn_id] = message
        if isinstance(begun, Run):
            self._runs[replica][begun.turn_id] = begun

    def _claim(self, replica: int) -> Claim:
        return Claim(run_id=uuid4().hex, worker_id=self._workers[replica], model="m", history=2)

    async def _begin_life(self, replica: int) -> None:
        worker = uuid4().hex
        async with self._database.transaction(None) as session:
            session.add(Worker(id=worker, lease_until=FAR_AWAY))
        self._workers[replica] = worker

    async def _under_way(self) -> int:
        queued = await self._rows("SELECT id FROM queued_turns WHERE user_id = :user")
        return len(queued) + len(self._waiting) + sum(map(len, self._runs))

    async def _rows(self, statement: str) -> Sequence[Any]:
        async with self._database.transaction(self.user_id) as session:
            return (await session.execute(text(statement), {"user": self.user_id})).all()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """Hypothesis calls a plain function many times; they share a loop, and so a database."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def database(loop: asyncio.Runner, new_database: Callable[[], str]) -> Iterator[Database]:
    opened = open_database(settings_for(new_database()))
    yield opened
    loop.run(opened.close())


ACT = st.tuples(st.sampled_from(ACTS), st.integers(0, 1))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.lists(ACT, min_size=1, max_size=3), min_size=3, max_size=12))
def test_whatever_two_replicas_do_one_turn_runs_at_a_time_in_order_and_none_is_lost(
    loop: asyncio.Runner, database: Database, steps: list[list[tuple[str, int]]]
) -> None:
    async def live() -> None:
        replicas = Replicas(database)
        await replicas.start()
        for acts in steps:
            await replicas.step(*acts)
        await replicas.settle()

    loop.run(live())


async def test_a_caller_that_waits_in_the_queue_of_a_process_that_ends_is_sent_on() -> None:
    supervisor = Supervisor(cast("TurnStore", None), Patience())
    log = supervisor.live.queue(Queued(user_id="alice", conversation_id=1, turn_id=2))
    answer = asyncio.create_task(log.answer())
    await supervisor.drain(0)
    with pytest.raises(Restarting) as raised:
        await answer
    assert raised.value.document["turn_id"] == 2
