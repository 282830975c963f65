"""Whatever has happened to a conversation before, the history that an agent is given is well formed."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from chatapi.agent.ports import HistoryMessage, ToolCall
from chatapi.agent.tools import TASK_TOOLS
from chatapi.db.database import Database
from chatapi.db.models import Conversation, Worker
from chatapi.errors.base import AppError
from chatapi.turns.log import TextAdded
from chatapi.turns.schemas import AnswerAnew, ChatRequest
from chatapi.turns.store import Claim, Key, Run, Said, summaries, turn_store
from chatapi.turns.store.history import read_history
from chatapi.turns.store.summaries import Place
from chatapi.turns.store.window import Window
from chatapi.turns.tools import TurnTools
from tests.support.databases import open_database
from tests.support.serving import settings_for

Fate = Literal[
    "success",
    "failure",
    "failure and retry",
    "crash",
    "crash and retry",
    "cancel",
    "cancel in silence",
    "cancel after a call",
]
FATES: tuple[Fate, ...] = Fate.__args__  # type: ignore[attr-defined]
HISTORY_TURNS = 3
FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)


class Driver:
    """Turns of one conversation, driven step by step through the transactions that the service uses.

    `groups` has the turns and those that answer them anew, each by its id with its messages; None if nothing is to be
    seen of it. `edge` is the last turn that has fallen out of the window. `summaries` are the last turns of those that hold.
    """

    def __init__(self, database: Database) -> None:
        self.user_id = uuid4().hex
        self.conversation_id: int | None = None
        self.groups: list[dict[int, list[HistoryMessage] | None]] = []
        self.edge = 0
        self.summaries: list[int] = []
        self._database = database
        self._store = turn_store(database)

    @property
    def visible(self) -> list[list[HistoryMessage]]:
        return [messages for _, messages in shown(self.groups)]

    async def turn(self, number: int, fate: Fate, calls: int, *, anew: bool = False) -> None:
        request: ChatRequest | AnswerAnew = ChatRequest(
            message=f"question {number}", conversation_id=self.conversation_id
        )
        if anew:
            *_, last = self.groups[-1]
            request = AnswerAnew(turn_id=last, message=f"edited {number}" if number % 2 else None)
        key = Key(value=uuid4().hex, request_hash="x")
        run = await self._begin(request, key)
        self.conversation_id = run.conversation_id
        before = self.groups[:-1] if anew else self.groups
        if anew:
            self._forget(min(self.groups[-1]))
        self._check_summary(run, before)
        edge, expected = fallen(before, self.edge)
        assert list(run.history) == expected
        group = self.groups[-1] if anew else {}
        self.groups = [*before, group]
        group[run.turn_id] = None
        if fate in {"crash", "crash and retry"}:
            await self._call(run, calls)
            await self._die(run)
            if fate == "crash":
                return
            run = await self._begin(request, key)
            assert list(run.history) == expected
        if fate == "failure and retry":
            await self._end(run, "failure", await self._call(run, calls))
            run = await self._begin(request, key)
            assert list(run.history) == expected
        tools = await self._call(
            run, 0 if fate == "cancel in silence" else max(calls, fate == "cancel after a call")
        )
        group[run.turn_id] = await self._end(run, fate, tools)
        self.edge = edge

    async def delete(self, number: int) -> None:
        """Delete a turn; those that have fallen out of the window come in again."""
        turns = [(group, turn_id) for group in self.groups for turn_id in group]
        if turns:
            group, turn_id = turns[number % len(turns)]
            await self._store.remove(self.user_id, turn_id, alone=False)
            del group[turn_id]
            self.groups = [each for each in self.groups if each]
            self._forget(turn_id)
            self.edge = self.summaries[-1] if self.summaries else 0

    async def sum_up(self) -> None:
        """Sum up all but the last turn: by the ids of the turns, so that it is seen what a summary is made of."""
        if self.conversation_id is None:
            return
        place = Place(user_id=self.user_id, conversation_id=self.conversation_id)
        before = self.summaries[-1] if self.summaries else 0
        new = [turn_id for turn_id, _ in shown(self.groups)[:-1] if turn_id > before]
        async with self._database.transaction(self.user_id) as session:
            until = await summaries.to_sum_up(session, place)
            assert until == (new[-1] if new else None)
            if until is None:
                return
            claim = await summaries.want(session, place, until, FAR_AWAY)
            assert claim is not None
            material = await summaries.gather(session, claim)
            assert material is not None
            assert [turn.id for turn in material.turns] == new
            content = " ".join([material.before or "", *map(str, new)]).strip()
            assert await summaries.settle(session, claim, turn_id=until, content=content, model="x")
        self.summaries = [*self.summaries, until][-2:]  # those before are deleted
        self.edge = max(self.edge, until)

    def _forget(self, turn_id: int) -> None:
        """Summaries that cover this turn do not hold any more; what comes after the last that does is shown again."""
        left = [until for until in self.summaries if until < turn_id]
        if left[-1:] != self.summaries[-1:]:
            self.summaries = left
            self.edge = left[-1] if left else 0

    def _check_summary(self, run: Run, before: list[dict[int, list[HistoryMessage] | None]]) -> None:
        """Check that it covers the turns that count before the window, all that are older than its last one."""
        until = self.summaries[-1] if self.summaries else 0
        assert run.window.summed_up == until
        told = [turn_id for turn_id, _ in shown(before) if turn_id <= until]
        said = [message.content.partition("\n\n")[2] for message in run.window.summary[:1]]
        assert said == ([" ".join(map(str, told))] if until else [])

    async def _begin(self, request: ChatRequest | AnswerAnew, key: Key) -> Run:
        claim = Claim(run_id=uuid4().hex, worker_id=uuid4().hex, model="x", history=HISTORY_TURNS)
        async with self._database.transaction(None) as session:
            session.add(Worker(id=claim.worker_id, lease_until=FAR_AWAY))
        begun = await self._store.begin(self.user_id, request, key, claim)
        assert isinstance(begun, Run)
        return begun

    async def _call(self, run: Run, calls: int) -> list[ToolCall]:
        tools = TurnTools(self._store, run, {tool.name: tool for tool in TASK_TOOLS}, tell=lambda _: None)
        for number in range(calls):
            await tools.call("add_task", {"title": f"task {number}"} if number % 2 == 0 else {"title": ""})
        return tools.calls

    async def _end(self, run: Run, fate: Fate, calls: list[ToolCall]) -> list[HistoryMessage] | None:
        """End the turn; returns what there is to see of it."""
        if fate == "failure":
            said = Said(events=[TextAdded("half an answ")], tool_calls=calls)
            await self._store.fail(run, said, {"type": "x", "detail": "x"})
            return None
        response = "" if fate in {"cancel in silence", "cancel after a call"} else f"answer to {run.message}"
        said = Said(events=[TextAdded(response)] if response else [], tool_calls=calls)
        if fate.startswith("cancel"):
            await self._store.cancel(run, said)
        else:
            await self._store.finish(run, said, "nothing")
        if not response and not calls:
            return None
        return [
            HistoryMessage(role="user", content=run.message, tool_calls=[]),
            HistoryMessage(role="assistant", content=response, tool_calls=calls),
        ]

    async def _die(self, run: Run) -> None:
        async with self._database.transaction(None) as session:
            await session.execute(Worker.__table__.delete())  # type: ignore[attr-defined]


def shown(groups: list[dict[int, list[HistoryMessage] | None]]) -> list[tuple[int, list[HistoryMessage]]]:
    """The last turn of each group that has an answer."""
    answered = [[(each, messages) for each, messages in group.items() if messages] for group in groups]
    return [turns[-1] for turns in answered if turns]


def fallen(
    groups: list[dict[int, list[HistoryMessage] | None]], edge: int
) -> tuple[int, list[HistoryMessage]]:
    """What the next turn is shown, and the edge from then on: three turns at the most, and two after it was too full."""
    turns = [(each, messages) for each, messages in shown(groups) if each > edge]
    if len(turns) > HISTORY_TURNS:
        edge, turns = turns[-3][0], turns[-2:]
    return edge, [message for _, messages in turns for message in messages]


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


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from([*FATES, "delete", "sum up"]), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=14,
    )
)
@example(
    acts=[*[("success", 0, False)] * 3, ("sum up", 0, False), ("delete", 1, False), ("success", 0, True)]
)
def test_history_is_whole_turns_of_what_was_answered(
    loop: asyncio.Runner, database: Database, acts: list[tuple[Fate | Literal["delete", "sum up"], int, bool]]
) -> None:
    """Whatever was edited, answered anew, cancelled, deleted or summed up, it is this conversation's and in order."""

    async def live() -> None:
        driver = Driver(database)
        for number, (act, calls, anew) in enumerate(acts):
            if act == "delete":
                await driver.delete(number * 7 + calls)
            elif act == "sum up":
                await driver.sum_up()
            else:
                await driver.turn(number, act, calls, anew=anew and bool(driver.groups))
        if driver.conversation_id is None:
            return
        async with database.transaction(driver.user_id) as session:
            await session.execute(update(Conversation).values(window_after=None))
            history = await read_history(session, driver.user_id, driver.conversation_id, turns=100)
        assert history.window.summed_up == (driver.summaries[-1] if driver.summaries else 0)
        assert history.messages == [message for turn in driver.visible for message in turn]
        assert [message.role for message in history.messages] == ["user", "assistant"] * len(driver.visible)
        for message in history.messages:
            assert message.content or message.tool_calls
            for call in message.tool_calls:
                assert (call.result is msgspec.UNSET) != (call.error is msgspec.UNSET)

    loop.run(live())


@settings(max_examples=20, deadline=None)
@given(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=6), late=st.integers(0, 5))
def test_a_run_that_was_taken_over_can_write_nothing(
    loop: asyncio.Runner, database: Database, fates: list[Fate], late: int
) -> None:
    """A run whose lease has ended neither ends its turn nor touches a task, whatever happens later."""

    async def live() -> None:
        driver = Driver(database)
        await driver.turn(0, "success", 0)
        request = ChatRequest(message="late", conversation_id=driver.conversation_id)
        zombie = await driver._begin(request, Key(value=uuid4().hex, request_hash="x"))
        await driver._die(zombie)
        for number, fate in enumerate(fates):
            await driver.turn(number, fate, 0)
            if number == late:
                break
        tools = TurnTools(
            turn_store(database), zombie, {tool.name: tool for tool in TASK_TOOLS}, tell=lambda _: None
        )
        boo = Said(events=[TextAdded("boo")], tool_calls=[])
        for attempt in (
            tools.call("add_task", {"title": "from the grave"}),
            turn_store(database).fail(zombie, boo, {}),
            turn_store(database).finish(zombie, boo, "nothing"),
        ):
            with pytest.raises(AppError) as raised:
                await attempt
            assert raised.value.type == "turn-cancelled"

    loop.run(live())


def test_a_window_begins_at_a_turns_edge_whatever_a_model_was_not_shown() -> None:
    """A turn has more than two messages if its caller has sent some before its own."""
    window = Window(turn_ids=[1, 1, 1, 1, 2, 2], edge=None)
    assert [window.without(messages).edge for messages in range(7)] == [None] * 4 + [1, 1, 2]
    assert window.without(5).without(0).edge == 1
