"""SQLite's store: it begins and finishes a turn by statements compiled once, in one go on the event loop.

They serve the common case. In any other case they change nothing, and the plain form of the method takes over. The
write lock is taken before the first statement, so nothing changes between two.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    SmallInteger,
    Text,
    bindparam,
    delete,
    false,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.dml import ReturningUpdate

from chatapi.conversations.search.folding import TITLE
from chatapi.conversations.search.index import attaching_title
from chatapi.db.models import (
    RUNNING,
    Conversation,
    Message,
    QueuedTurn,
    SearchText,
    Turn,
    TurnChunk,
    UsageConversation,
    UsageDay,
    User,
    now,
)
from chatapi.db.owner import USER_ID
from chatapi.db.paging import MAX_ID
from chatapi.db.sqlite import Statement, Transaction
from chatapi.turns.measures import measuring
from chatapi.turns.schemas import AnswerAnew, ChatRequest
from chatapi.turns.store.base import TurnStore
from chatapi.turns.store.history import History, gone_on_from, select_shown, to_history
from chatapi.turns.store.queue import Queued, in_queue, queued_in
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
    finish_values,
    is_ours,
    new_message,
    new_turn,
    to_answer,
)
from chatapi.turns.store.title import is_titled, title_values, titled
from chatapi.turns.store.window import EDGE, moved
from chatapi.usage.budgets import Budgets
from chatapi.usage.counting import CONVERSATION_ID, Spent, added_to, rows_of

Values: TypeAlias = Mapping[str, Any]

TURN_ID = bindparam("turn_id", None, type_=BigInteger())
RUN_ID = bindparam("run_id", None, type_=Text())
KEY = bindparam("key", None, type_=Text())
CONTENT = bindparam("content", None, type_=Text())
MODEL = bindparam("model", None, type_=Text())
NOW = bindparam("now", None, type_=Text())


class SqliteTurnStore(TurnStore):
    """Falls back to the plain form of each method."""

    async def _begin(
        self,
        user_id: str,
        request: ChatRequest | AnswerAnew,
        key: Key | None,
        claim: Claim,
        is_retry: bool,  # noqa: FBT001 - as in `TurnStore`
    ) -> Run | Queued | Stored:
        if isinstance(request, AnswerAnew) or is_retry or is_uncommon(request):
            return await super()._begin(user_id, request, key, claim, is_retry)
        at = now()
        values = begin_values(user_id, request, key, claim, moment(at))
        found = await self._database.at_once(
            lambda transaction: (
                begin(transaction, values, history_turns=claim.history)
                if is_within(transaction, user_id, claim.budgets)
                else None
            ),
            is_last=False,
        )
        if found is None:
            return await super()._begin(user_id, request, key, claim, is_retry)
        turn_id, conversation_id, history = found
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
        if run.wait is not None or said.unheard is not None:
            return await super()._finish(run, said, shown, is_retry)
        title = self._title_for(run)
        values = finish_values(run, said, moment()) | title_values(title)
        if title is not None and title.due_at is not None:
            values["title_due"] = moment(title.due_at)
        found = await self._database.at_once(
            lambda transaction: finish(transaction, values, said.spent, was_shown=shown != "nothing")
        )
        if found is None:
            return await super()._finish(run, said, shown, is_retry)
        message_id, is_titled, is_followed = found
        self._tell_title(run, title, is_titled=is_titled)
        return Finished(to_answer(run, message_id, said), is_followed)


def begin(transaction: Transaction, values: Values, *, history_turns: int) -> tuple[int, int, History] | None:
    """Begin a turn; returns the ids of it and its conversation, and the history.

    Returns None if another turn or request is in the way.
    """
    if values["key"] is not None and transaction.rows(KNOWN, values):
        return None
    is_new = values["conversation_id"] is None
    if is_new:
        transaction.rows(REMEMBER_USER, values)
        ((conversation_id, edge),) = transaction.rows(NEW_CONVERSATION, values)
    elif is_in_the_way(transaction, values) or not (reopened := transaction.rows(REOPEN, values)):
        return None
    else:
        ((conversation_id, edge),) = reopened
    values = {**values, "conversation_id": conversation_id, "edge": edge}
    ((turn_id,),) = transaction.rows(NEW_TURN, values)
    ((message_id,),) = transaction.rows(QUESTION, {**values, "turn_id": turn_id})
    index_text(transaction, {**values, "message_id": message_id})
    with measuring("history"):
        rows = transaction.rows(select_before(history_turns), values)
        history = to_history(
            [
                (turn_id, role, content, calls, state and msgspec.json.decode(state), files, edge)
                for _, turn_id, role, content, calls, state, files, edge in rows
            ],
            history_turns,
        )
    if not is_new and not rows:
        transaction.rows(ATTACH_TITLE, {**values, "message_id": message_id})
    return turn_id, conversation_id, history


def is_in_the_way(transaction: Transaction, values: Values) -> bool:
    """Whether the conversation has another turn under way, or has gone on from the turn that this one is to follow."""
    if transaction.rows(IN_THE_WAY, values):
        return True
    return values["after"] is not None and bool(transaction.rows(GONE_ON, values))


def is_within(transaction: Transaction, user_id: str, budgets: Budgets) -> bool:
    """Whether a turn may begin; if so, announce what is left."""
    if not budgets:
        return True
    at = now()
    since = {name: day.isoformat() for name, day in budgets.values(at).items()}
    (used,) = transaction.rows(select_used(budgets), {"user_id": user_id, **since})
    if not budgets.allow(used):
        return False
    budgets.announce(used, at)
    return True


def finish(
    transaction: Transaction, values: Values, spent: Sequence[Spent], *, was_shown: bool
) -> tuple[int, bool, bool] | None:
    """Finish a turn; returns its answer's id, and whether it gives a title and has a turn behind it; None if it is lost."""
    if not transaction.rows(END, values):
        return None
    ((_, is_titled),) = transaction.rows(TOUCH, values)
    if is_titled:
        transaction.rows(SEARCHABLE_TITLE, values)
    if was_shown:
        transaction.rows(DROP_CHUNKS, values)
    ((message_id, is_followed),) = transaction.rows(ANSWER, values)
    index_text(transaction, {**values, "message_id": message_id})
    if spent:
        for table, rows in rows_of(values["user_id"], values["conversation_id"], spent):
            for row in rows:
                transaction.rows(COUNT[table], {**row, "day": row["day"].isoformat()})
    return int(message_id), bool(is_titled), bool(is_followed)


def index_text(transaction: Transaction, values: Values) -> None:
    """Make a message searchable."""
    for part, words in zip(values["search_parts"], values["search_words"], strict=True):
        transaction.rows(SEARCHABLE, {**values, "part": part, "words": words})


def moment(at: datetime | None = None) -> str:
    """The moment, or now, as columns of `DateTimeUTC` store it."""
    return (at or now()).strftime("%Y-%m-%d %H:%M:%S.%f")


@cache
def select_used(budgets: Budgets) -> Statement:
    return Statement(budgets.used(USER_ID))


@cache
def select_before(history_turns: int) -> Statement:
    edge = bindparam("edge", None, type_=BigInteger())
    shown = select_shown(USER_ID, CONVERSATION_ID, turns=history_turns, before=MAX_ID, edge=edge)
    return Statement(select(shown).order_by(shown.c.id))


def message(role: Any, *, tool_calls: Any, parts: Any, provider_state: Any) -> dict[str, Any]:
    return new_message(
        role,
        user_id=USER_ID,
        conversation_id=CONVERSATION_ID,
        turn_id=TURN_ID,
        content=CONTENT,
        tool_calls=tool_calls,
        parts=parts,
        provider_state=provider_state,
        at=NOW,
    )


def touched(**columns: Any) -> ReturningUpdate[tuple[int]]:
    """The conversation with its new activity, and with these columns."""
    return (
        update(Conversation)
        .where(Conversation.id == CONVERSATION_ID, Conversation.user_id == USER_ID)
        .values(updated_at=NOW, **columns)
        .returning(Conversation.id)
    )


NEW_ONE = new_turn(
    user_id=USER_ID,
    conversation_id=CONVERSATION_ID,
    key=KEY,
    request_hash=bindparam("request_hash", None, type_=Text()),
    claim=Claim(
        run_id=RUN_ID,  # type: ignore[arg-type] # a parameter in the place of the value
        worker_id=bindparam("worker_id", None, type_=Text()),  # type: ignore[arg-type]
        model=MODEL,  # type: ignore[arg-type]
        history=0,
    ),
    alternative_of=null(),
    asked=bindparam("asked", None, type_=Text()),
    at=NOW,
)
ENDED = ended_turn(
    status=literal_column("'completed'"),
    usage=bindparam("usage", None, type_=Text()),
    finish_reason=bindparam("finish_reason", None, type_=Text()),
    model=MODEL,
    error=null(),
    at=NOW,
)

COUNT = {
    table: Statement(
        added_to(
            table,
            sqlite.insert(table).values(
                {column.name: bindparam(column.name, None, type_=column.type) for column in table.__table__.c}
            ),
        )
    )
    for table in (UsageDay, UsageConversation)
}
KNOWN = Statement(
    select(Turn.id)
    .where(Turn.user_id == USER_ID, Turn.idempotency_key == KEY)
    .union_all(select(QueuedTurn.id).where(QueuedTurn.user_id == USER_ID, QueuedTurn.idempotency_key == KEY))
)
IN_THE_WAY = Statement(
    select(Turn.id)
    .where(Turn.user_id == USER_ID, Turn.conversation_id == CONVERSATION_ID, Turn.status == RUNNING)
    .union_all(select(QueuedTurn.id).where(queued_in(USER_ID, CONVERSATION_ID)))
)
GONE_ON = Statement(
    gone_on_from(bindparam("after", None, type_=BigInteger()), USER_ID, CONVERSATION_ID).limit(1)
)
TOUCH = Statement(
    touched(
        **titled(
            bindparam("title", None, type_=Text()),
            bindparam("title_due", None, type_=Text()),
            NOW,
        ),
        **moved(bindparam("window_after", None, type_=BigInteger())),
    ).returning(is_titled(NOW))
)
REOPEN = Statement(touched(archived=false()).returning(EDGE))
REMEMBER_USER = Statement(sqlite.insert(User).values(id=USER_ID, created_at=NOW).on_conflict_do_nothing())
NEW_CONVERSATION = Statement(
    insert(Conversation)
    .values(
        user_id=USER_ID,
        source=bindparam("source", None, type_=Text()),
        created_at=NOW,
        updated_at=NOW,
    )
    .returning(Conversation.id, EDGE)
)
NEW_TURN = Statement(insert(Turn).values(NEW_ONE).returning(Turn.id))
QUESTION = Statement(
    insert(Message)
    .values(
        message(
            USER,
            tool_calls=literal_column("'[]'"),
            parts=null(),
            provider_state=bindparam("before", None, type_=Text()),
        )
    )
    .returning(Message.id)
)
SEARCHABLE = Statement(
    insert(SearchText).values(
        user_id=USER_ID,
        conversation_id=CONVERSATION_ID,
        message_id=bindparam("message_id", None, type_=BigInteger()),
        part=bindparam("part", None, type_=SmallInteger()),
        words=bindparam("words", None, type_=Text()),
    )
)
SEARCHABLE_TITLE = Statement(
    insert(SearchText).from_select(
        ["user_id", "conversation_id", "message_id", "part", "words"],
        select(
            USER_ID,
            CONVERSATION_ID,
            func.min(Message.id),
            literal_column(str(TITLE)),
            bindparam("title_words", None, type_=Text()),
        ).where(Message.user_id == USER_ID, Message.conversation_id == CONVERSATION_ID),
        include_defaults=False,
    )
)
ATTACH_TITLE = Statement(
    attaching_title(USER_ID, CONVERSATION_ID, bindparam("message_id", None, type_=BigInteger()))
)
END = Statement(update(Turn).where(is_ours(TURN_ID, USER_ID, RUN_ID)).values(ENDED).returning(Turn.id))
DROP_CHUNKS = Statement(delete(TurnChunk).where(TurnChunk.turn_id == TURN_ID, TurnChunk.user_id == USER_ID))
ANSWER = Statement(
    insert(Message)
    .values(
        message(
            ASSISTANT,
            tool_calls=bindparam("tool_calls", None, type_=Text()),
            parts=bindparam("parts", None, type_=Text()),
            provider_state=bindparam("provider_state", None, type_=Text()),
        )
    )
    .returning(Message.id, in_queue(USER_ID, CONVERSATION_ID))
)
