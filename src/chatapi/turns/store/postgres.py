"""PostgreSQL's store: it begins a turn, watches it, journals its calls and finishes it in one statement each.

A statement serves the common case. In any other case it changes nothing, and the plain form of the method takes over.
docs/adr/0013-one-statement-for-a-transaction.md says why this is right, and what it saves.
"""

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any

from msgspec import UNSET
from msgspec.structs import asdict
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Integer,
    SmallInteger,
    Text,
    any_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.expression import CTE

from chatapi.agent.ports import ToolCall
from chatapi.conversations.search.folding import TITLE
from chatapi.conversations.search.index import attaching_title
from chatapi.db.autocommit import Statement
from chatapi.db.database import Database, Work
from chatapi.db.models import (
    RUNNING,
    Conversation,
    Message,
    QueuedTurn,
    SearchText,
    ToolCallEntry,
    Turn,
    TurnChunk,
    User,
    now,
)
from chatapi.db.owner import EVERYONE_IS_SET, OWNER_IS_SET, USER_ID
from chatapi.db.paging import MAX_ID
from chatapi.errors.turns import TurnCancelled
from chatapi.turns.measures import measuring
from chatapi.turns.replay import joined
from chatapi.turns.schemas import AnswerAnew, ChatRequest
from chatapi.turns.store import journal
from chatapi.turns.store.base import TurnStore
from chatapi.turns.store.history import History, gone_on_from, select_shown, to_history
from chatapi.turns.store.live import Chunk, Watched
from chatapi.turns.store.queue import Queued, in_queue
from chatapi.turns.store.requests import is_uncommon
from chatapi.turns.store.rows import (
    ASSISTANT,
    USER,
    Claim,
    Finished,
    Key,
    Run,
    Said,
    Shown,
    Stored,
    begin_values,
    ended_turn,
    entry_values,
    finish_values,
    is_ours,
    new_message,
    new_turn,
    to_answer,
    to_json,
)
from chatapi.turns.store.title import Titler, is_titled, title_values, titled
from chatapi.turns.store.window import EDGE, moved
from chatapi.usage.budgets import Budgets
from chatapi.usage.counting import CONVERSATION_ID, Spent, counted_by, values_of

TURN_ID = bindparam("turn_id", None, type_=Turn.id.type)
RUN_ID = bindparam("run_id", None, type_=Text())
RUN_IDS = bindparam("run_ids", None, type_=ARRAY(Text()))
KEY = bindparam("key", None, type_=Text())
CONTENT = bindparam("content", None, type_=Text())
MODEL = bindparam("model", None, type_=Text())
NOW = bindparam("now", None, type_=Turn.created_at.type)
TITLE_TEXT = bindparam("title", None, type_=Text())
TITLE_DUE = bindparam("title_due", None, type_=Turn.created_at.type)
WINDOW_AFTER = bindparam("window_after", None, type_=Conversation.window_after.type)
CLAIM = Claim(
    run_id=RUN_ID,  # type: ignore[arg-type] # a parameter in the place of the value
    worker_id=bindparam("worker_id", None, type_=Text()),  # type: ignore[arg-type]
    model=MODEL,  # type: ignore[arg-type]
    history=0,
)


class PostgresTurnStore(TurnStore):
    """Falls back to the plain form of each method."""

    def __init__(self, database: Database, titler: Titler | None = None) -> None:
        super().__init__(database, titler)
        self._watching = asyncio.Lock()
        self._unheard: set[str] = set()  # runs with a chunk of which nobody knows whether it was written

    async def _begin(
        self,
        user_id: str,
        request: ChatRequest | AnswerAnew,
        key: Key | None,
        claim: Claim,
        is_retry: bool,  # noqa: FBT001 - as in `TurnStore`
    ) -> Run | Queued | Stored:
        if isinstance(request, AnswerAnew) or is_uncommon(request):
            return await super()._begin(user_id, request, key, claim, is_retry)
        is_first = request.conversation_id is None
        budgets, at = claim.budgets, now()
        with measuring("history"):  # which takes most of the statement's time
            rows = await self._database.statement(
                begin_first(budgets)
                if is_first
                else begin_next(
                    claim.history, budgets, keyed=key is not None, after=request.after is not UNSET
                ),
                begin_values(user_id, request, key, claim, at) | budgets.values(at),
            )
        if not rows:
            return await super()._begin(user_id, request, key, claim, is_retry)
        if budgets:
            budgets.announce(rows[0][-len(budgets) :], at)
            rows = [row[: -len(budgets)] for row in rows]
        turn_id, conversation_id, *first = rows[0]
        is_any = bool(first) and first[0] is not None
        history = to_history([row[2:] for row in rows], claim.history) if is_any else History()
        return Run(
            turn_id=turn_id,
            run_id=claim.run_id,
            user_id=user_id,
            conversation_id=conversation_id,
            message=request.message,
            terms=request.terms,
            history=[*history.messages, *(request.before or ())],
            window=history.window,
            created_at=at,
        )

    async def _finish(
        self,
        run: Run,
        said: Said,
        shown: Shown,
        is_retry: bool,  # noqa: FBT001 - as in `TurnStore`
    ) -> Finished:
        is_plain = run.wait is not None or said.unheard is not None
        if is_plain or (shown == "being written" and not await self._is_written(run)):
            return await super()._finish(run, said, shown, is_retry)
        title = self._title_for(run)
        rows = await self._database.statement(
            finish_turn(was_shown=shown != "nothing", counts=bool(said.spent)),
            finish_values(run, said, now()) | title_values(title) | values_of(said.spent),
        )
        if not rows:
            return await super()._finish(run, said, shown, is_retry)
        message_id, is_titled, is_followed = rows[0]
        self._tell_title(run, title, is_titled=is_titled)
        return Finished(to_answer(run, message_id, said), is_followed)

    async def hold(self, run: Run) -> None:
        rows = await self._database.tried(
            lambda _: self._database.statement(
                HOLD, {"turn_id": run.turn_id, "user_id": run.user_id, "run_id": run.run_id}
            )
        )
        if not rows:
            raise TurnCancelled

    async def call(
        self,
        run: Run,
        position: int,
        effect: Work[ToolCall],
        spent: Sequence[Spent] = (),
        *,
        writes: bool,
    ) -> ToolCall:
        """The entry is one statement. An effect that writes nothing here is carried out before it, without a transaction."""
        statement = record(counts=bool(spent))

        def values_for(call: ToolCall) -> dict[str, Any]:
            ids = {"conversation_id": run.conversation_id}
            return entry_values(run, position, call, now()) | values_of(spent) | ids

        async def work(session: AsyncSession) -> ToolCall:
            call = await effect(session)
            if not await self._database.statement_within(session, statement, values_for(call)):
                raise TurnCancelled
            return call

        async def written(session: AsyncSession) -> ToolCall | None:
            return await journal.written(session, run, position)

        if writes:
            return await self._database.run(run.user_id, work, written)
        call = await self._database.read(run.user_id, effect)
        values = values_for(call)
        if await self._database.tried(lambda _: self._database.statement(statement, values)):
            return call
        # The turn is no longer ours, or a try whose answer was lost has written the entry.
        if await self._database.run(run.user_id, written) is None:
            raise TurnCancelled
        return call

    async def _is_written(self, run: Run) -> bool:
        """Wait for the write of the run's chunk; False if its outcome is unknown: it may still happen.

        A statement sees nothing that is committed after it began, and so would not delete such a chunk.
        """
        async with self._watching:
            return run.run_id not in self._unheard

    async def watch(self, run_ids: Sequence[str], chunks: Sequence[Chunk]) -> Watched:
        if not chunks:
            return await self._watch(run_ids, chunks)
        writing = {chunk.run_id for chunk in chunks}
        async with self._watching:
            self._unheard = {run_id for run_id in self._unheard if run_id in run_ids} | writing
            watched = await self._watch(run_ids, chunks)
            self._unheard -= writing
        return watched

    async def _watch(self, run_ids: Sequence[str], chunks: Sequence[Chunk]) -> Watched:
        rows = await self._database.tried(
            lambda _: self._database.statement(
                WATCH,
                {
                    "run_ids": list(run_ids),
                    "chunks": to_json([as_row(chunk) for chunk in chunks]),
                },
            )
        )
        return Watched(
            going_on={run_id for run_id, cancelled, _ in rows if not cancelled},
            written={run_id for run_id, _, written in rows if written},
        )


def as_row(chunk: Chunk) -> dict[str, Any]:
    """The events are text in it: PostgreSQL would decode JSON inside of JSON, and decodes no U+0000, which a call may hold."""
    return {**asdict(chunk), "events": to_json(joined(chunk.events))}


def used_of(budgets: Budgets) -> tuple[Sequence[CTE], Sequence[ColumnElement[bool]]]:
    """What the user has used of the budgets, as a part of a statement, and the condition that a turn may begin."""
    if not budgets:
        return (), ()
    used = budgets.used(USER_ID).where(OWNER_IS_SET).cte("used")
    return (used,), (exists(select(literal_column("1")).select_from(used).where(*budgets.left(used.c))),)


def claimed_turn(
    conversation_id: ColumnElement[int], source: CTE | None, *conditions: ColumnElement[bool]
) -> CTE:
    """Insert the turn; returns nothing if another request was first, or a condition does not hold."""
    columns = new_turn(
        user_id=USER_ID,
        conversation_id=conversation_id,
        key=KEY,
        request_hash=bindparam("request_hash", None, type_=Text()),
        claim=CLAIM,
        alternative_of=null(),
        asked=bindparam("asked", None, type_=JSON()),
        at=NOW,
    )
    values = select(*columns.values())
    return (
        insert(Turn)
        .from_select(
            list(columns),
            (values.where(OWNER_IS_SET) if source is None else values.select_from(source)).where(*conditions),
            include_defaults=False,
        )
        .on_conflict_do_nothing()
        .returning(Turn.id, Turn.conversation_id)
        .cte("turn")
    )


def key_is_queued() -> ColumnElement[bool]:
    return exists().where(OWNER_IS_SET, QueuedTurn.user_id == USER_ID, QueuedTurn.idempotency_key == KEY)


def users_message(turn: CTE) -> CTE:
    columns = new_message(
        USER,
        user_id=USER_ID,
        conversation_id=turn.c.conversation_id,
        turn_id=turn.c.id,
        content=CONTENT,
        tool_calls=literal_column("'[]'", JSON()),
        parts=null(),
        provider_state=bindparam("before", None, type_=JSON()),
        at=NOW,
    )
    return (
        insert(Message)
        .from_select(list(columns), select(*columns.values()), include_defaults=False)
        .returning(Message.id, Message.conversation_id)
        .cte("message")
    )


def searchable(message: CTE) -> CTE:
    """Insert the rows of the search index for a message that is inserted by the same statement."""
    row = (
        func.unnest(
            bindparam("search_parts", None, type_=ARRAY(SmallInteger())),
            bindparam("search_words", None, type_=ARRAY(Text())),
        )
        .table_valued("part", "words")
        .render_derived("row")
    )
    columns = {
        "user_id": USER_ID,
        "conversation_id": message.c.conversation_id,
        "message_id": message.c.id,
        "part": row.c.part,
        "words": row.c.words,
    }
    rows = select(*columns.values()).select_from(message).join(row, true())
    return insert(SearchText).from_select(list(columns), rows, include_defaults=False).cte("searchable")


def searchable_title(touched: CTE) -> CTE:
    """Insert the row of the search index for the title that the conversation was given, beside its first message's."""
    place = tuple_(Message.conversation_id, Message.id)  # as `in_conversation` says
    first = (
        select(Message.id)
        .where(
            OWNER_IS_SET,
            Message.user_id == USER_ID,
            place > tuple_(CONVERSATION_ID, literal_column("0")),
            place < tuple_(CONVERSATION_ID, literal_column(str(MAX_ID))),
        )
        .order_by(Message.conversation_id, Message.id)
        .limit(literal_column("1"))
        .scalar_subquery()
    )
    columns = {
        "user_id": USER_ID,
        "conversation_id": touched.c.id,
        "message_id": first,
        "part": literal_column(str(TITLE)),
        "words": bindparam("title_words", None, type_=Text()),
    }
    row = select(*columns.values()).where(touched.c.is_titled)
    return insert(SearchText).from_select(list(columns), row, include_defaults=False).cte("searchable_title")


def attached_title(message: CTE) -> CTE:
    """As `attach_title`, for a message that is inserted by the same statement."""
    return attaching_title(USER_ID, CONVERSATION_ID, message.c.id).where(OWNER_IS_SET).cte("attached_title")


@cache
def begin_first(budgets: Budgets) -> Statement:
    """Begin a turn in a new conversation, which is inserted from the turn's row: no turn, no conversation.

    Foreign keys are checked when the statement ends, so the order of the rows is free.
    """
    user = (
        insert(User)
        .from_select(["id", "created_at"], select(USER_ID, NOW).where(OWNER_IS_SET), include_defaults=False)
        .on_conflict_do_nothing()
        .cte("user")
    )
    conversation_id = func.nextval(func.pg_get_serial_sequence("conversations", "id"))
    used, allowed = used_of(budgets)
    turn = claimed_turn(conversation_id, None, ~key_is_queued(), *allowed)
    columns = {
        "id": turn.c.conversation_id,
        "user_id": USER_ID,
        "source": bindparam("source", None, type_=Text()),
        "created_at": NOW,
        "updated_at": NOW,
    }
    conversation = (
        insert(Conversation)
        .from_select(list(columns), select(*columns.values()), include_defaults=False)
        .cte("conversation")
    )
    message = users_message(turn)
    return Statement(
        select(turn.c.id, turn.c.conversation_id, *(c for each in used for c in each.c))
        .select_from(turn, *used)
        .add_cte(user, conversation, message, searchable(message))
    )


@cache
def begin_next(history_turns: int, budgets: Budgets, *, keyed: bool, after: bool) -> Statement:
    """Begin a turn in an existing conversation; with `after` only if that has not gone on since a certain turn.

    A statement reads what was there when it began, also when it then waited for the conversation's row. So it does
    nothing if a turn was running or the conversation has changed since: it would miss that turn's messages. Nor does
    it if the key was seen before: a repeated request is no activity of the conversation.
    """
    before = (
        select(Conversation.id, Conversation.updated_at, EDGE)
        .where(OWNER_IS_SET, Conversation.id == CONVERSATION_ID, Conversation.user_id == USER_ID)
        .cte("before")
    )
    running = exists().where(
        OWNER_IS_SET,
        Turn.user_id == USER_ID,
        Turn.conversation_id == CONVERSATION_ID,
        Turn.status == RUNNING,
    )
    known = exists().where(OWNER_IS_SET, Turn.user_id == USER_ID, Turn.idempotency_key == KEY)
    busy = or_(running, in_queue(USER_ID, CONVERSATION_ID).where(OWNER_IS_SET))
    in_the_way = or_(busy, known, key_is_queued()) if keyed else busy
    if after:
        later = gone_on_from(bindparam("after", None, type_=Turn.id.type), USER_ID, CONVERSATION_ID)
        in_the_way = or_(in_the_way, exists(later.where(OWNER_IS_SET)))
    used, allowed = used_of(budgets)
    touched = (
        update(Conversation)
        .where(
            OWNER_IS_SET,
            Conversation.id == before.c.id,
            Conversation.user_id == USER_ID,
            Conversation.updated_at == before.c.updated_at,
            ~in_the_way,
            *allowed,
        )
        .values(updated_at=NOW, archived=false())
        .returning(Conversation.id)
        .cte("touched")
    )
    turn = claimed_turn(touched.c.id, touched)
    message = users_message(turn)
    edge = select(before.c.edge).scalar_subquery()
    messages = select_shown(
        USER_ID, CONVERSATION_ID, OWNER_IS_SET, turns=history_turns, before=MAX_ID, edge=edge
    )
    return Statement(
        select(
            turn.c.id,
            turn.c.conversation_id,
            *(c for c in messages.c if c.name != "id"),
            *(c for each in used for c in each.c),
        )
        .select_from(turn.outerjoin(messages, true()), *used)
        .order_by(messages.c.id)
        .add_cte(message, searchable(message), attached_title(message))
    )


@cache
def finish_turn(*, was_shown: bool, counts: bool) -> Statement:
    """Finish a turn, with the locks of the plain form in the same order: the conversation's, the turn's, the day's.

    `was_shown`: chunks were written for readers elsewhere, and are deleted with the end. `counts`: models were used.
    A turn that is queued while the statement waits for its locks is not seen here; the process that has queued it then
    sees that nobody runs the conversation.
    """
    ours = (OWNER_IS_SET, is_ours(TURN_ID, USER_ID, RUN_ID))
    touched = (
        update(Conversation)
        .where(
            OWNER_IS_SET,
            Conversation.id == CONVERSATION_ID,
            Conversation.user_id == USER_ID,
            exists().where(*ours),
        )
        .values(updated_at=NOW, **titled(TITLE_TEXT, TITLE_DUE, NOW), **moved(WINDOW_AFTER))
        .returning(Conversation.id, is_titled(NOW))
        .cte("touched")
    )
    ended = (
        update(Turn)
        .where(*ours, Turn.conversation_id == touched.c.id)
        .values(
            ended_turn(
                status=literal_column("'completed'"),
                usage=bindparam("usage", None, type_=JSON()),
                finish_reason=bindparam("finish_reason", None, type_=Text()),
                model=MODEL,
                error=null(),
                at=NOW,
            )
        )
        .returning(Turn.id)
        .cte("ended")
    )
    columns = new_message(
        ASSISTANT,
        user_id=USER_ID,
        conversation_id=CONVERSATION_ID,
        turn_id=ended.c.id,
        content=CONTENT,
        tool_calls=bindparam("tool_calls", None, type_=JSON()),
        parts=bindparam("parts", None, type_=JSON()),
        provider_state=bindparam("provider_state", None, type_=JSON()),
        at=NOW,
    )
    answer = (
        insert(Message)
        .from_select(list(columns), select(*columns.values()), include_defaults=False)
        .returning(Message.id, Message.conversation_id)
        .cte("answer")
    )
    is_followed = in_queue(USER_ID, CONVERSATION_ID).where(OWNER_IS_SET)
    statement = select(answer.c.id, touched.c.is_titled, is_followed).join(touched, true())
    statement = statement.add_cte(searchable(answer), searchable_title(touched))
    if was_shown:
        forgotten = (
            delete(TurnChunk)
            .where(TurnChunk.turn_id == ended.c.id, TurnChunk.user_id == USER_ID)
            .cte("forgotten")
        )
        statement = statement.add_cte(forgotten)
    if counts:
        statement = statement.add_cte(*counted_by(source=ended))
    return Statement(statement)


def hold() -> Statement:
    """Whether the turn is still ours; a lock would end with the statement."""
    return Statement(select(Turn.id).where(OWNER_IS_SET, is_ours(TURN_ID, USER_ID, RUN_ID)))


@cache
def record(*, counts: bool) -> Statement:
    """As `journal.record_call`, but an entry that is there already stays, and is not counted again."""
    columns = {
        "turn_id": Turn.id,
        "position": bindparam("position", None, type_=Integer()),
        "user_id": Turn.user_id,
        "call_id": bindparam("call_id", None, type_=Text()),
        "name": bindparam("name", None, type_=Text()),
        "arguments": bindparam("arguments", None, type_=JSON()),
        "result": bindparam("result", None, type_=JSON()),
        "error": bindparam("error", None, type_=Text()),
        "created_at": NOW,
    }
    held = (
        select(*columns.values())
        .where(OWNER_IS_SET, is_ours(TURN_ID, USER_ID, RUN_ID))
        .with_for_update(read=True)
    )
    entry = (
        insert(ToolCallEntry)
        .from_select(list(columns), held, include_defaults=False)
        .on_conflict_do_nothing()
        .returning(ToolCallEntry.turn_id)
        .cte("entry")
    )
    statement = select(entry.c.turn_id)
    if counts:
        statement = statement.add_cte(*counted_by(source=entry))
    return Statement(statement)


def watch() -> Statement:
    """The running ones of these runs, each with whether it was asked to end and whether its chunk is written."""
    running = (
        select(Turn.run_id, Turn.cancel_requested)
        .where(EVERYONE_IS_SET, Turn.run_id == any_(RUN_IDS), Turn.status == RUNNING)
        .cte("running")
    )
    # One value in place of arrays: asyncpg asks each new connection what an array of integers is.
    news = (
        func.json_to_recordset(bindparam("chunks", None, type_=JSON()))
        .table_valued(
            *(
                column(each.name, Text() if each.name == "events" else each.type)
                for each in TurnChunk.__table__.c
            )
        )
        .render_derived("news", with_types=True)
    )
    events = cast(news.c.events, JSON)
    held = (
        select(Turn.run_id)
        .where(
            EVERYONE_IS_SET,
            Turn.run_id.in_(select(news.c.run_id)),
            Turn.status == RUNNING,
        )
        .with_for_update(read=True, skip_locked=True)
        .cte("held")
    )
    written = (
        insert(TurnChunk)
        .from_select(
            [each.name for each in news.c],
            select(*(events if each.name == "events" else each for each in news.c))
            .select_from(news)
            .join(held, held.c.run_id == news.c.run_id),
            include_defaults=False,
        )
        .on_conflict_do_nothing()
        .cte("written")
    )
    return Statement(
        select(running.c.run_id, running.c.cancel_requested, held.c.run_id.is_not(None))
        .select_from(running.outerjoin(held, held.c.run_id == running.c.run_id))
        .add_cte(written)
    )


HOLD = hold()
WATCH = watch()
