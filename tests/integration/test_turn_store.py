"""The quick forms of a turn's transactions against the plain ones: the same results, errors and rows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.agent.ports import HistoryMessage, ProviderState, ToolCall, Usage
from chatapi.budgets import parse_budgets
from chatapi.db.database import Database, Work
from chatapi.db.models import Task, Worker, now
from chatapi.db.owner import EVERYONE
from chatapi.db.reading import OnlyReads
from chatapi.db.schema import upgrade
from chatapi.db.services import remember_user
from chatapi.errors.base import AppError
from chatapi.errors.requests import BudgetExceeded
from chatapi.errors.turns import TurnCancelled
from chatapi.patience import Patience
from chatapi.tasks.schemas import NewTask
from chatapi.tasks.service import TaskService
from chatapi.turns.log import TextAdded, ToolStarted, TurnEvent
from chatapi.turns.schemas import Answer, AnswersRequest, ChatAnswer, ChatRequest, Pending, WaitingAnswer
from chatapi.turns.store import (
    Claim,
    Finished,
    Key,
    Queued,
    Run,
    Said,
    Shown,
    Stored,
    TurnStore,
)
from chatapi.turns.store.answers import Given, Waiting
from chatapi.turns.store.live import Chunk, Watched
from chatapi.turns.store.postgres import PostgresTurnStore
from chatapi.turns.store.sqlite import SqliteTurnStore
from chatapi.usage.budgets import NO_BUDGETS, Budgets
from chatapi.usage.counting import COUNTED, Spent
from chatapi.usage.schemas import TurnUsage
from tests.support.databases import open_database
from tests.support.postgres import ROLE, WAITING, Postgres, until
from tests.support.serving import settings_for

T = TypeVar("T")
# For tests in which a statement waits for another after it has looked.
ON_POSTGRES = pytest.mark.parametrize("database", ["postgres", ROLE], indirect=True)
CALLS = [
    ToolCall(id="1", name="add_task", arguments={"title": 'm"ilk\u0000'}, result={"id": 1, "b": [1, None]}),
    ToolCall(id="2", name="add_task", arguments={}, error="No title."),
]
PICTURE = {
    "users": "SELECT count(*) FROM users WHERE id = :user",
    "conversations": (
        "SELECT title, updated_at > '2021-01-01' AS recent, "
        "window_after - (SELECT min(id) FROM turns WHERE user_id = :user) "
        "FROM conversations WHERE user_id = :user ORDER BY id"
    ),
    "turns": (
        "SELECT status, worker_id, cancel_requested, idempotency_key, request_hash, model, CAST(error AS text), CAST(usage AS text), "
        "finish_reason, "
        "finished_at IS NULL AS open, conversation_id = (SELECT min(id) FROM conversations WHERE user_id = :user) "
        "FROM turns WHERE user_id = :user ORDER BY id"
    ),
    "messages": (
        "SELECT role, content, CAST(tool_calls AS text), CAST(provider_state AS text), "
        "turn_id - (SELECT min(turn_id) FROM messages WHERE user_id = :user) "
        "FROM messages WHERE user_id = :user ORDER BY id"
    ),
    "journal": (
        "SELECT position, call_id, name, CAST(arguments AS text), CAST(result AS text), error "
        "FROM tool_calls WHERE user_id = :user ORDER BY turn_id, position"
    ),
    "tasks": "SELECT title FROM tasks WHERE user_id = :user ORDER BY id",
    "days": f"SELECT model, {', '.join(COUNTED)} FROM usage_days WHERE user_id = :user ORDER BY day, model",
    "conversations of days": (
        f"SELECT conversation_id = (SELECT min(id) FROM conversations WHERE user_id = :user), {', '.join(COUNTED)} "
        "FROM usage_conversations WHERE user_id = :user ORDER BY day, conversation_id"
    ),
    "chunks": "SELECT position, CAST(events AS text) FROM turn_chunks WHERE user_id = :user ORDER BY turn_id, position",
}


@pytest.fixture(scope="module", params=["sqlite", "postgres", ROLE])
async def database(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Database]:
    """SQLite, and PostgreSQL as a role that is subject to row-level security and as one that is not."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'chatapi.db'}"
        await asyncio.to_thread(upgrade, settings_for(url), Patience())
    else:
        url = postgres.url(await asyncio.to_thread(postgres.new_database), role=request.param)
    opened = open_database(settings_for(url))
    async with opened.transaction(EVERYONE) as session:
        await session.execute(insert(Worker).values(id="alive", lease_until=datetime(9999, 1, 1, tzinfo=UTC)))
    yield opened
    await opened.close()


class Turns:
    """A user's turns by one of the two forms. `alone` counts the transactions that did not need the plain form."""

    def __init__(self, database: Database, *, one: bool) -> None:
        self.user_id = f"{'one' if one else 'many'}-{uuid4().hex}"
        self.alone = 0
        self.budgets = NO_BUDGETS
        self._database = database
        of_database = OnPostgres if database.is_postgresql else OnSqlite
        self._store = of_database(database, self) if one else TurnStore(database)

    async def begin(
        self, message: str, conversation_id: int | None = None, key: str | None = None, worker: str = "alive"
    ) -> Run | ChatAnswer:
        request = ChatRequest(message=message, conversation_id=conversation_id)
        claim = Claim(run_id=uuid4().hex, worker_id=worker, model="m", history=2, budgets=self.budgets)
        its_key = None if key is None else Key(value=key, request_hash=message)
        begun = await self._store.begin(self.user_id, request, its_key, claim)
        if isinstance(begun, Run):
            return begun
        assert isinstance(begun, Stored)
        assert isinstance(begun.answer, ChatAnswer)
        return begun.answer

    async def finish(
        self, run: Run | ChatAnswer, response: str = "answer", shown: Shown = "nothing", **outcome: Any
    ) -> ChatAnswer:
        assert isinstance(run, Run)
        said = Said(events=said_as(response), **{"tool_calls": [], **outcome})
        return (await self._store.finish(run, said, shown)).answer

    async def show(self, run: Run | ChatAnswer, *events: TurnEvent) -> None:
        assert isinstance(run, Run)
        chunk = Chunk(
            turn_id=run.turn_id,
            run_id=run.run_id,
            user_id=run.user_id,
            position=0,
            events=[*events, TextAdded("Half")],
        )
        shown = Watched(going_on={run.run_id}, written={run.run_id})
        assert await self._store.watch([run.run_id], [chunk]) == shown
        # Written again, as after a lost answer.
        assert await self._store.watch([run.run_id], [chunk]) == shown

    async def call(
        self, run: Run | ChatAnswer, position: int, call: ToolCall, spent: Sequence[Spent] = ()
    ) -> ToolCall:
        """A call that writes nothing to the database itself."""
        assert isinstance(run, Run)

        async def effect(_: AsyncSession) -> ToolCall:
            return call

        await self._store.hold(run)
        return await self._store.call(run, position, effect, spent, writes=False)

    async def add_task(
        self,
        run: Run | ChatAnswer,
        position: int,
        spent: Sequence[Spent] = (),
        then: Work[None] | None = None,
    ) -> ToolCall:
        """A call that writes to the database."""
        assert isinstance(run, Run)
        call = ToolCall(id=f"call_{position}", name="add_task", arguments={"title": "milk"}, result=1)

        async def effect(session: AsyncSession) -> ToolCall:
            await TaskService(session).add(run.user_id, NewTask(title="milk"))
            if then is not None:
                await then(session)
            return call

        return await self._store.call(run, position, effect, spent, writes=True)

    async def fail(
        self, run: Run | ChatAnswer, response: str, spent: Sequence[Spent] = (), **used: Any
    ) -> None:
        """Has only the plain form, as `cancel`."""
        assert isinstance(run, Run)
        error = {"type": "model-failed", "detail": "It failed."}
        await self._store.fail(run, Said(events=said_as(response), tool_calls=[], spent=spent, **used), error)

    async def cancel(self, run: Run | ChatAnswer, response: str, spent: Sequence[Spent] = ()) -> None:
        """Has only the plain form."""
        assert isinstance(run, Run)
        await self._store.cancel(run, Said(events=said_as(response), tool_calls=[], spent=spent))

    async def request_cancel(self, run: Run | ChatAnswer) -> None:
        await self._store.request_cancel(self.user_id, run.turn_id)

    async def wait(self, run: Run | ChatAnswer, response: str, **used: Any) -> None:
        """Let the turn wait for the outcome of a call that its caller carries out; has only the plain form."""
        assert isinstance(run, Run)
        pending = Pending(id="c", kind="client-tool", tool_call_id="c", name="clock", arguments={})
        said = Said(events=said_as(response), tool_calls=[], **used)
        await self._store.wait(run, said, Waiting(pending=[pending], state=None, seconds=60))

    async def give_answer(self, run: Run | ChatAnswer) -> Run | WaitingAnswer | Given:
        request = AnswersRequest(answers=[Answer(id="c", output="noon")])
        claim = Claim(run_id=uuid4().hex, worker_id="alive", model="m", history=2)
        return await self._store.answer(self.user_id, run.turn_id, request, None, claim)

    async def answer(self, run: Run | ChatAnswer) -> Run:
        """Go on with the turn."""
        resumed = await self.give_answer(run)
        assert isinstance(resumed, Run)
        return resumed

    async def picture(self) -> dict[str, list[tuple[Any, ...]]]:
        async with self._database.transaction(self.user_id) as session:
            return {
                table: [tuple(row) for row in await session.execute(text(query), {"user": self.user_id})]
                for table, query in PICTURE.items()
            }

    async def rest(self) -> None:
        """Let the last activity be long ago."""
        await self.execute("UPDATE conversations SET updated_at = '2020-01-01' WHERE user_id = :user")

    async def execute(self, statement: str) -> None:
        async with self._database.transaction(self.user_id) as session:
            await session.execute(text(statement), {"user": self.user_id})


def said_as(response: str) -> list[TurnEvent]:
    return [TextAdded(response)] if response else []


class Noting(TurnStore):
    """Notes that the plain form was used."""

    was_asked = False

    async def _begin(self, *arguments: Any) -> Run | Queued | Stored:
        self.was_asked = True
        return await super()._begin(*arguments)

    async def _finish(self, *arguments: Any) -> Finished:
        self.was_asked = True
        return await super()._finish(*arguments)


class Counting(TurnStore):
    """Counts the begins and ends that did not use the plain form."""

    def __init__(self, database: Database, turns: Turns) -> None:
        super().__init__(database)
        self._turns = turns

    async def begin(self, *arguments: Any) -> Run | Queued | Stored:
        return await self._counted(super().begin(*arguments))

    async def finish(self, *arguments: Any) -> Finished:
        return await self._counted(super().finish(*arguments))

    async def _counted(self, doing: Awaitable[T]) -> T:
        self.was_asked = False
        done = await doing
        self._turns.alone += not self.was_asked
        return done


class OnPostgres(Counting, PostgresTurnStore, Noting):
    """Runs begin and finish as one statement each."""


class OnSqlite(Counting, SqliteTurnStore, Noting):
    """Runs begin and finish as statements that are compiled once."""


async def first_and_next(turns: Turns) -> Any:
    first = await turns.begin("one")
    await turns.finish(first, tool_calls=CALLS, usage=Usage(input_tokens=1, output_tokens=2))
    second = await turns.begin("two", first.conversation_id, key="k")
    await turns.finish(
        second, "", tool_calls=CALLS, state=ProviderState(model="other", data={"signature": "é"})
    )
    third = await turns.begin("three", first.conversation_id)
    await turns.cancel(third, "stopped")
    await turns.rest()
    fourth = await turns.begin("four", first.conversation_id)
    assert isinstance(fourth, Run)
    assert contents(fourth) == ["three", "stopped"]
    return third.history if isinstance(third, Run) else ()


def contents(run: Run | ChatAnswer) -> list[str]:
    assert isinstance(run, Run)
    return [message.content for message in run.history]


async def the_window_is_full(turns: Turns) -> Any:
    """It falls to half, and stays there: however the turn ends, and when a turn of it has waited or is run again."""
    first = await turns.begin("one")
    await turns.finish(first, "a")
    ends: list[Callable[..., Awaitable[Any]]] = [turns.finish] * 2
    ends += [turns.cancel, turns.fail, turns.finish, turns.wait]
    shown = []
    for number, end in enumerate(ends):
        run = await turns.begin(str(number), first.conversation_id)
        shown.append(contents(run))
        await end(run, f"answer {number}")
    assert shown == [
        ["one", "a"],
        ["one", "a", "0", "answer 0"],
        ["1", "answer 1"],
        ["1", "answer 1", "2", "answer 2"],
        ["1", "answer 1", "2", "answer 2"],
        ["4", "answer 4"],
    ]
    (_, _, edge), *_ = (await turns.picture())["conversations"]
    assert edge == 3  # the cancelled turn, before the failed one and the last two
    return contents(await turns.answer(run))


def spent(model: str, cost: int | None, day: int = 1, *, turns: int = 0, tokens: int = 10) -> Spent:
    return Spent(
        day=date(2026, 11, day),
        model=model,
        turns=turns,
        input_tokens=tokens,
        cached_input_tokens=4,
        output_tokens=3,
        cost_picodollars=cost,
    )


async def models_were_used(turns: Turns) -> Any:
    """Costs are exact whichever database adds them, and a price that is unknown is remembered."""
    first = await turns.begin("one")
    await turns.finish(
        first, spent=[spent("b", 150_000, turns=1), spent("a", 10**17 + 1, 2), spent("a", 10**17 + 1)]
    )
    second = await turns.begin("two", first.conversation_id)
    await turns.finish(second, spent=[spent("a", 1, 2, turns=1), spent("a", 2, 2), spent("c", None)])
    third = await turns.begin("three", first.conversation_id)
    await turns.fail(third, "half", [spent("a", 1, 2, turns=1)])
    fourth = await turns.begin("four", first.conversation_id)
    await turns.cancel(fourth, "half", [spent("a", 1, 2, turns=1)])
    return [row[:7] for row in (await turns.picture())["days"]]


async def a_budget_is_used_up(turns: Turns) -> Any:
    """A key's answer is still given again, and its failed turn does not run again."""
    today = now().date()
    turns.budgets = Budgets(
        [*parse_budgets("tokens", "20/day,1000/month"), *parse_budgets("cost", "1/month")]
    )
    used = replace(spent("a", 1, turns=1), day=today)
    first = await turns.begin("one", key="k")
    await turns.finish(first, spent=[used])
    second = await turns.begin("two", first.conversation_id, key="f")
    await turns.fail(second, "half", [used])
    assert isinstance(await turns.begin("one", key="k"), ChatAnswer)
    with pytest.raises(BudgetExceeded, match="20 tokens a day"):
        await turns.begin("two", first.conversation_id, key="f")
    with pytest.raises(BudgetExceeded):
        await turns.begin("new")
    await turns.begin("three", first.conversation_id)


async def a_turn_failed(turns: Turns) -> Any:
    first = await turns.begin("one")
    await turns.finish(first, "answ", finish_reason="length")
    second = await turns.begin("two", first.conversation_id, key="k")
    await turns.fail(second, "half")
    again = await turns.begin("two", first.conversation_id, key="k")
    await turns.fail(again, "half again")
    third = await turns.begin("three", first.conversation_id)
    assert isinstance(third, Run)
    return third.history


async def an_answer_that_was_shown(turns: Turns) -> Any:
    """The turn's end deletes the chunks for readers elsewhere, in the same statement."""
    first = await turns.begin("one")
    await turns.show(first)
    await turns.finish(first, "Half an answer", "written")
    second = await turns.begin("two", first.conversation_id)
    await turns.show(
        second, *(ToolStarted(id=call.id, name=call.name, arguments=call.arguments) for call in CALLS)
    )
    await turns.finish(second, "Half an answer", "being written")


async def calls_are_journaled(turns: Turns) -> Any:
    run = await turns.begin("one")
    return [
        await turns.call(run, position, call, [spent("a", 1), spent("b", None)])
        for position, call in enumerate(CALLS)
    ]


async def a_call_of_a_turn_that_was_taken_over(turns: Turns) -> Any:
    run = await turns.begin("one")
    await turns.execute("UPDATE turns SET run_id = :user WHERE user_id = :user")
    await turns.call(run, 0, CALLS[0])


async def a_call_that_writes_is_journaled(turns: Turns) -> Any:
    run = await turns.begin("one")
    return [await turns.add_task(run, 0, [spent("a", 1)]), await turns.add_task(run, 1)]


async def a_call_that_writes_of_a_turn_that_was_taken_over(turns: Turns) -> Any:
    """Its effect is taken back."""
    run = await turns.begin("one")
    await turns.execute("UPDATE turns SET run_id = :user WHERE user_id = :user")
    await turns.add_task(run, 0, [spent("a", 1)])


async def an_end_is_activity(turns: Turns) -> Any:
    run = await turns.begin("one")
    await turns.rest()
    await turns.finish(run)


async def a_turn_is_running(turns: Turns) -> Any:
    first = await turns.begin("one")
    await turns.rest()
    await turns.begin("two", first.conversation_id)


async def a_turn_was_abandoned(turns: Turns) -> Any:
    first = await turns.begin("one", worker="dead")
    second = await turns.begin("two", first.conversation_id)
    assert isinstance(second, Run)
    return second.message, second.history


async def a_turn_that_was_asked_to_end_was_abandoned(turns: Turns) -> Any:
    """The process died before it looked. The turn is not run again, and what it had said is kept."""
    first = await turns.begin("one", key="k")
    await turns.show(first)
    await turns.request_cancel(first)
    await turns.execute("UPDATE turns SET worker_id = 'dead' WHERE user_id = :user")
    with pytest.raises(TurnCancelled):
        await turns.begin("one", first.conversation_id, key="k")
    second = await turns.begin("two", first.conversation_id)
    with pytest.raises(TurnCancelled):
        await turns.begin("one", first.conversation_id, key="k")
    assert contents(second) == ["one", "Half"]


async def a_turn_that_had_waited_was_asked_to_end_and_abandoned(turns: Turns) -> Any:
    """As above: by its answers it is not run again, either."""
    run = await turns.begin("one")
    await turns.wait(run, "Well")
    await turns.request_cancel(await turns.answer(run))
    await turns.execute("UPDATE turns SET worker_id = 'dead' WHERE user_id = :user")
    assert isinstance(await turns.give_answer(run), Given)
    assert contents(await turns.begin("two", run.conversation_id)) == ["one", "Well"]


async def a_turn_that_had_waited_failed(turns: Turns) -> Any:
    """What it had used when it began to wait is what a run that goes on from there adds to."""
    run = await turns.begin("one", key="k")
    await turns.wait(run, "Well", usage=TurnUsage(input_tokens=100, output_tokens=10))
    await turns.fail(await turns.answer(run), "half", usage=TurnUsage(input_tokens=150, output_tokens=15))
    again = await turns.answer(run)
    await turns.fail(again, "half", usage=TurnUsage(input_tokens=170, output_tokens=17))
    for goes_on in (again, await turns.begin("one", key="k")):
        assert isinstance(goes_on, Run)
        assert goes_on.wait is not None
        assert goes_on.wait.usage == TurnUsage(input_tokens=100, output_tokens=10)


async def nobodys_conversation(turns: Turns) -> Any:
    await turns.begin("one", 10**9)


async def no_possible_conversation(turns: Turns) -> Any:
    await turns.begin("one", 2**70)


async def a_key_again(turns: Turns) -> Any:
    first = await turns.begin("one", key="k")
    await turns.finish(first)
    answer = await turns.begin("one", key="k")
    assert isinstance(answer, ChatAnswer)
    return answer.response


async def a_key_of_another_request(turns: Turns) -> Any:
    first = await turns.begin("one", key="k")
    await turns.finish(first)
    await turns.rest()
    await turns.begin("two", first.conversation_id, key="k")


async def a_key_that_runs(turns: Turns) -> Any:
    await turns.begin("one", key="k")
    await turns.begin("one", key="k")


async def taken_over(turns: Turns) -> Any:
    run = await turns.begin("one")
    await turns.rest()
    await turns.execute("UPDATE turns SET run_id = :user WHERE user_id = :user")
    await turns.finish(run)


async def deleted(turns: Turns) -> Any:
    run = await turns.begin("one")
    await turns.execute("DELETE FROM conversations WHERE user_id = :user")
    await turns.finish(run)


async def deleted_before_it_waits(turns: Turns) -> Any:
    run = await turns.begin("one")
    await turns.execute("DELETE FROM conversations WHERE user_id = :user")
    await turns.wait(run, "Well")


# How many of its transactions the quick form handles: the rest are no common cases.
SITUATIONS = {
    first_and_next: 6,
    the_window_is_full: 11,
    models_were_used: 6,
    a_budget_is_used_up: 3,
    a_turn_failed: 4,
    an_answer_that_was_shown: 4,
    calls_are_journaled: 1,
    a_call_of_a_turn_that_was_taken_over: 1,
    a_call_that_writes_is_journaled: 1,
    a_call_that_writes_of_a_turn_that_was_taken_over: 1,
    an_end_is_activity: 2,
    a_turn_is_running: 1,
    a_turn_was_abandoned: 1,
    a_turn_that_was_asked_to_end_was_abandoned: 1,
    a_turn_that_had_waited_was_asked_to_end_and_abandoned: 1,
    a_turn_that_had_waited_failed: 1,
    nobodys_conversation: 0,
    no_possible_conversation: 0,
    a_key_again: 2,
    a_key_of_another_request: 2,
    a_key_that_runs: 1,
    taken_over: 1,
    deleted: 1,
    deleted_before_it_waits: 1,
}


async def outcome_of(situation: Callable[[Turns], Awaitable[Any]], turns: Turns) -> tuple[Any, Any]:
    try:
        result = await situation(turns)
    except AppError as error:
        result = (type(error), error.detail, sorted(error.document))
    return result, await turns.picture()


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
async def test_both_forms_do_the_same(
    database: Database, situation: Callable[[Turns], Awaitable[Any]]
) -> None:
    one, many = Turns(database, one=True), Turns(database, one=False)
    found = await outcome_of(situation, one)
    assert found == await outcome_of(situation, many)
    assert one.alone == SITUATIONS[situation]  # type: ignore[index]
    if situation is models_were_used:
        assert found[0] == [
            ("a", 0, 10, 4, 3, 10**17 + 1, 0),
            ("b", 1, 10, 4, 3, 150_000, 0),
            ("c", 0, 10, 4, 3, 0, 1),
            ("a", 3, 50, 20, 15, 10**17 + 6, 0),
        ]
    if situation is first_and_next:
        assert found[0][3] == HistoryMessage(
            role="assistant", content="", tool_calls=CALLS, provider_state={"signature": "é"}
        )


@pytest.mark.parametrize("one", [False, True])
async def test_a_message_whose_commit_was_cut_is_not_queued_again_when_its_turn_has_begun(
    database: Database, *, one: bool
) -> None:
    turns = Turns(database, one=one)
    first = await turns.begin("one")
    assert isinstance(first, Run)
    request = ChatRequest(message="two", conversation_id=first.conversation_id, when_busy="queue")
    claim = Claim(run_id=uuid4().hex, worker_id="alive", model="m", history=2)
    place = await turns._store.begin(turns.user_id, request, None, claim)
    assert isinstance(place, Queued)
    await turns.finish(first)
    elsewhere = replace(claim, run_id=uuid4().hex)
    begun = await turns._store.begin_queued(turns.user_id, first.conversation_id, elsewhere)
    assert isinstance(begun, Run)
    assert await turns._store._begin(turns.user_id, request, None, claim, True) == place
    await turns.finish(begun)


@ON_POSTGRES
async def test_a_turn_that_waited_for_another_to_end_sees_what_that_said(
    database: Database, postgres: Postgres
) -> None:
    """A statement reads what was there when it began, which is here before the wait."""
    turns = Turns(database, one=True)
    first = await turns.begin("one")
    assert isinstance(first, Run)
    other = await asyncpg.connect(postgres.url(str(database.engine.url.database), role="postgres"))
    try:
        async with other.transaction():
            # The end of the first turn, as another process writes it, up to its COMMIT.
            await other.execute(
                "UPDATE conversations SET updated_at = now() WHERE id = $1", first.conversation_id
            )
            await other.execute("UPDATE turns SET status = 'completed' WHERE id = $1", first.turn_id)
            await other.execute(
                "INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at) "
                "VALUES ($1, $2, $3, 'assistant', 'answer', '[]', now())",
                turns.user_id,
                first.conversation_id,
                first.turn_id,
            )
            beginning = asyncio.create_task(turns.begin("two", first.conversation_id))
            await until(WAITING, other, beginning)
        second = await beginning
    finally:
        await other.close()
    assert isinstance(second, Run)
    assert [message.content for message in second.history] == ["one", "answer"]


@ON_POSTGRES
async def test_a_turn_that_was_overtaken_by_a_whole_one_sees_what_that_said(
    database: Database, postgres: Postgres
) -> None:
    """The other turn began and ended between this one's read and its lock, so it was never seen running."""
    turns = Turns(database, one=True)
    first = await turns.begin("one")
    await turns.finish(first)
    assert isinstance(first, Run)
    other = await asyncpg.connect(postgres.url(str(database.engine.url.database), role="postgres"))
    try:
        async with other.transaction():
            await other.execute(
                "UPDATE conversations SET updated_at = now() WHERE id = $1", first.conversation_id
            )
            beginning = asyncio.create_task(turns.begin("three", first.conversation_id))
            await until(WAITING, other, beginning)
            turn_id = await other.fetchval(
                "INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at) "
                "VALUES ($1, $2, 'completed', 'w', $3, false, 'm', now()) RETURNING id",
                turns.user_id,
                first.conversation_id,
                uuid4().hex,
            )
            for role in ("user", "assistant"):
                await other.execute(
                    "INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at) "
                    "VALUES ($1, $2, $3, $4, 'two', '[]', now())",
                    turns.user_id,
                    first.conversation_id,
                    turn_id,
                    role,
                )
        third = await beginning
    finally:
        await other.close()
    assert isinstance(third, Run)
    assert [message.content for message in third.history] == ["one", "answer", "two", "two"]


async def test_requests_with_one_key_at_once_begin_one_turn_and_leave_no_empty_conversation(
    database: Database,
) -> None:
    turns = Turns(database, one=True)
    begun = await asyncio.gather(*(turns.begin("one", key="k") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, Run) for each in begun) == 1
    assert {type(each).__name__ for each in begun} == {"Run", "KeyInProgress"}
    assert {table: len(rows) for table, rows in (await turns.picture()).items()} == {
        "users": 1,
        "conversations": 1,
        "turns": 1,
        "messages": 1,
        "journal": 0,
        "tasks": 0,
        "days": 0,
        "conversations of days": 0,
        "chunks": 0,
    }


@ON_POSTGRES
@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_chunk_that_is_being_written_goes_with_the_turns_end(
    database: Database, postgres: Postgres, is_heard: bool
) -> None:
    turns = Turns(database, one=True)
    run = await turns.begin("one")
    assert isinstance(run, Run)
    other = await asyncpg.connect(postgres.url(str(database.engine.url.database), role="postgres"))
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(  # the same row, for which the write then waits
            "INSERT INTO turn_chunks (turn_id, run_id, position, user_id, events) VALUES ($1, $2, 0, $3, '[]')",
            run.turn_id,
            run.run_id,
            turns.user_id,
        )
        writing = asyncio.create_task(turns.show(run))
        await until(WAITING, other, writing)
        if not is_heard:
            writing.cancel()
        ending = asyncio.create_task(turns.finish(run, "Half an answer", "being written"))
        await asyncio.sleep(0.05)
        await transaction.rollback()
        await ending
        await asyncio.wait([writing])
    finally:
        await other.close()
    assert (await turns.picture())["chunks"] == []
    assert turns.alone == 1 + is_heard


@ON_POSTGRES
async def test_an_entry_whose_answer_was_lost_is_not_written_again(database: Database) -> None:
    turns = Turns(database, one=True)
    run = await turns.begin("one")
    for _ in range(2):
        assert await turns.call(run, 0, CALLS[0], [spent("a", 1)]) == CALLS[0]
    picture = await turns.picture()
    assert len(picture["journal"]) == 1
    assert [row[2] for row in picture["days"]] == [10]  # tokens, counted once


@ON_POSTGRES
async def test_a_call_that_is_said_to_read_cannot_write(database: Database) -> None:
    """It would take effect though the turn is no longer this run's."""
    turns = Turns(database, one=True)
    await turns.begin("one")

    async def by_statement(session: AsyncSession) -> None:
        await session.execute(insert(Task).values(user_id=turns.user_id, title="x"))

    async def by_object(session: AsyncSession) -> None:
        session.add(Task(user_id=turns.user_id, title="x"))
        await session.flush()

    for write in (by_statement, by_object):
        with pytest.raises(OnlyReads):
            await database.read(turns.user_id, write)
    async with database.transaction(turns.user_id) as session:
        assert await session.scalar(select(Task.id).where(Task.user_id == turns.user_id)) is None


async def test_a_call_whose_connection_is_lost_before_its_entry_is_made_again(database: Database) -> None:
    if not database.is_postgresql:
        pytest.skip("SQLite has no connection to lose")
    turns = Turns(database, one=True)
    run = await turns.begin("one")
    tries: list[int] = []

    async def lose(session: AsyncSession) -> None:
        process = await session.scalar(text("SELECT pg_backend_pid()"))
        tries.append(process)
        if len(tries) == 1:
            async with database.transaction(turns.user_id) as other:
                await other.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})

    await turns.add_task(run, 0, [spent("a", 1)], lose)
    assert len(set(tries)) == 2
    picture = await turns.picture()
    assert [len(picture[table]) for table in ("tasks", "journal", "days")] == [1, 1, 1]


async def test_reads_show_the_rows_of_their_owner(database: Database, request: pytest.FixtureRequest) -> None:
    mine, other = f"mine-{uuid4().hex}", f"other-{uuid4().hex}"
    for user_id in (mine, other):
        async with database.transaction(user_id) as session:
            await remember_user(session, user_id)
            session.add(Task(user_id=user_id, title="milk"))

    async def read(session: AsyncSession) -> set[str]:
        return set(await session.scalars(select(Task.user_id).where(Task.user_id.in_([mine, other]))))

    is_guarded = ROLE in request.node.name
    assert await database.read(mine, read) == ({mine} if is_guarded else {mine, other})


async def test_a_wait_that_is_stored_again_after_an_outage_is_stored_once(database: Database) -> None:
    """The end of a run is tried until it succeeds, and an earlier COMMIT may have gone through unheard."""
    turns = Turns(database, one=False)
    run = await turns.begin("ask")
    assert isinstance(run, Run)
    store = TurnStore(database)
    asked = Pending(id="a", kind="client-tool", tool_call_id="a", name="time_zone", arguments={})
    waiting = Waiting(pending=[asked], state=None, seconds=60)
    said = Said(events=said_as("Hm."), tool_calls=[])
    first = await store.wait(run, said, waiting)
    assert await store.wait(run, said, waiting) == first
    assert len(await store.waiting(turns.user_id, 10, None)) == 1
