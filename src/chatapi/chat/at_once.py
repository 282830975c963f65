"""The transactions of a turn as one statement each, where the database can do that: PostgreSQL.

Each function here does what its namesake in `store` does, and the tests hold the two against each other. The statement
is for the common case. Where there is anything out of the ordinary it changes nothing, and the plain form finds out
what that is and does it. Why this is right, and what it saves: docs/adr/0013-one-statement-for-a-transaction.md.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Text,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.expression import CTE

from chatapi.agent.ports import FinishReason, ProviderState, ToolCall, Usage
from chatapi.chat import store
from chatapi.chat.measures import measured
from chatapi.chat.schemas import ChatAnswer, ChatRequest
from chatapi.db.autocommit import Connection, Statement
from chatapi.db.database import Done
from chatapi.db.models import RUNNING, Conversation, Message, Turn, User, now
from chatapi.db.paging import MAX_ID

USER_ID = bindparam("user_id", None, type_=User.id.type)
# Sets the owner whom row-level security asks for, until the statement ends, which is its transaction. A condition without
# a column is looked at before anything is read (EXPLAIN: One-Time Filter), so where this one is, the owner is set.
OWNER = select(func.set_config("chatapi.user_id", USER_ID, true()).label("id")).cte("owner")
OWNER_IS_SET = select(OWNER.c.id).scalar_subquery().is_not(None)
CONVERSATION_ID = bindparam("conversation_id", None, type_=Conversation.id.type)
TURN_ID = bindparam("turn_id", None, type_=Turn.id.type)
RUN_ID = bindparam("run_id", None, type_=Text())
KEY = bindparam("key", None, type_=Text())
CONTENT = bindparam("content", None, type_=Text())
MODEL = bindparam("model", None, type_=Text())
NOW = bindparam("now", None, type_=Turn.created_at.type)


async def begin(
    connection: Connection, user_id: str, request: ChatRequest, key: store.Key | None, claim: store.Claim
) -> Done[store.Run | ChatAnswer] | None:
    """As `store.begin`, for a turn that nothing stands in the way of."""
    if (request.conversation_id or 0) > MAX_ID:
        return None
    if request.conversation_id is None:
        statement = BEGIN_FIRST
    else:
        statement = begin_next(claim.history, keyed=key is not None)
    rows = await begun_with_history(
        statement,
        connection,
        {
            "user_id": user_id,
            "conversation_id": request.conversation_id,
            "worker_id": claim.worker_id,
            "run_id": claim.run_id,
            "key": key and key.value,
            "request_hash": key and key.request_hash,
            "model": claim.model,
            "content": request.message,
            "now": now(),
        },
    )
    if not rows:
        return None
    turn_id, conversation_id, *first = rows[0]
    return Done(
        store.Run(
            turn_id=turn_id,
            run_id=claim.run_id,
            user_id=user_id,
            conversation_id=conversation_id,
            message=request.message,
            history=store.to_history(row[2:] for row in rows) if first and first[0] else [],
        )
    )


@measured("history")  # which is what of this takes time
async def begun_with_history(
    statement: Statement, connection: Connection, values: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    return await statement.run(connection, values)


async def finish(
    connection: Connection,
    run: store.Run,
    *,
    response: str,
    tool_calls: Sequence[ToolCall],
    usage: Usage | None,
    finish_reason: FinishReason | None = None,
    state: ProviderState | None = None,
) -> Done[ChatAnswer | None] | None:
    """As `store.finish`, for a turn that is still ours."""
    rows = await FINISH.run(
        connection,
        {
            "user_id": run.user_id,
            "conversation_id": run.conversation_id,
            "turn_id": run.turn_id,
            "run_id": run.run_id,
            "usage": to_json(usage),
            "finish_reason": finish_reason,
            "model": None if state is None else state.model,
            "content": response,
            "tool_calls": to_json(tool_calls),
            "provider_state": None if state is None else to_json(state.data),
            "now": now(),
        },
    )
    if not rows:
        return None
    return Done(store.to_answer(run, rows[0][0], response, tool_calls, usage, finish_reason))


def to_json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def claimed_turn(conversation_id: ColumnElement[int], source: CTE | None) -> CTE:
    """The turn and the user's message; nothing where another request was first."""
    columns = {
        "user_id": USER_ID,
        "conversation_id": conversation_id,
        "status": RUNNING,
        "worker_id": bindparam("worker_id", None, type_=Text()),
        "run_id": RUN_ID,
        "cancel_requested": literal_column("false"),
        "idempotency_key": KEY,
        "request_hash": bindparam("request_hash", None, type_=Text()),
        "model": MODEL,
        "created_at": NOW,
    }
    values = select(*columns.values())
    return (
        insert(Turn)
        .from_select(
            list(columns),
            values.where(OWNER_IS_SET) if source is None else values.select_from(source),
            include_defaults=False,
        )
        .on_conflict_do_nothing()
        .returning(Turn.id, Turn.conversation_id)
        .cte("turn")
    )


def users_message(turn: CTE) -> CTE:
    columns = {
        "user_id": USER_ID,
        "conversation_id": turn.c.conversation_id,
        "turn_id": turn.c.id,
        "role": literal_column("'user'"),
        "content": CONTENT,
        "tool_calls": literal_column("'[]'", JSON()),
        "created_at": NOW,
    }
    return (
        insert(Message)
        .from_select(list(columns), select(*columns.values()), include_defaults=False)
        .cte("message")
    )


def begin_first() -> Statement:
    """In a new conversation, which is made of the turn and not before it: no turn, no conversation left behind.

    Foreign keys are checked when the statement ends, so the order of the rows is free.
    """
    user = (
        insert(User)
        .from_select(["id", "created_at"], select(USER_ID, NOW).where(OWNER_IS_SET), include_defaults=False)
        .on_conflict_do_nothing()
        .cte("user")
    )
    conversation_id = func.nextval(func.pg_get_serial_sequence("conversations", "id"))
    turn = claimed_turn(conversation_id, None)
    columns = {"id": turn.c.conversation_id, "user_id": USER_ID, "created_at": NOW, "updated_at": NOW}
    conversation = (
        insert(Conversation)
        .from_select(list(columns), select(*columns.values()), include_defaults=False)
        .cte("conversation")
    )
    return Statement(
        select(turn.c.id, turn.c.conversation_id).add_cte(user, conversation, users_message(turn))
    )


@cache
def begin_next(history_turns: int, *, keyed: bool) -> Statement:
    """In a conversation that there is.

    A statement reads what was there when it began, also when it had to wait for the conversation's row. So it does
    nothing where it found a turn running, or the conversation no longer as it was: it would miss that turn's messages.
    Nor where the key was seen before: that is no activity of the conversation's.
    """
    before = (
        select(Conversation.id, Conversation.updated_at)
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
    in_the_way = or_(running, known) if keyed else running
    touched = (
        update(Conversation)
        .where(
            OWNER_IS_SET,
            Conversation.id == before.c.id,
            Conversation.user_id == USER_ID,
            Conversation.updated_at == before.c.updated_at,
            ~in_the_way,
        )
        .values(updated_at=NOW)
        .returning(Conversation.id)
        .cte("touched")
    )
    turn = claimed_turn(touched.c.id, touched)
    history = store.select_history(USER_ID, CONVERSATION_ID, turns=history_turns, before=MAX_ID).subquery(
        "history"
    )
    return Statement(
        select(turn.c.id, turn.c.conversation_id, *(c for c in history.c if c.name != "id"))
        .select_from(turn.outerjoin(history, true()))
        .order_by(history.c.id)
        .add_cte(users_message(turn))
    )


def finish_turn() -> Statement:
    """The same locks in the same order as in the plain form: the conversation's, then the turn's."""
    ours = (
        OWNER_IS_SET,
        Turn.id == TURN_ID,
        Turn.user_id == USER_ID,
        Turn.run_id == RUN_ID,
        Turn.status == RUNNING,
    )
    touched = (
        update(Conversation)
        .where(
            OWNER_IS_SET,
            Conversation.id == CONVERSATION_ID,
            Conversation.user_id == USER_ID,
            exists().where(*ours),
        )
        .values(updated_at=NOW)
        .returning(Conversation.id)
        .cte("touched")
    )
    ended = (
        update(Turn)
        .where(*ours, Turn.conversation_id == touched.c.id)
        .values(
            status=literal_column("'completed'"),
            usage=bindparam("usage", None, type_=JSON()),
            finish_reason=bindparam("finish_reason", None, type_=Text()),
            model=func.coalesce(MODEL, Turn.model),
            finished_at=NOW,
        )
        .returning(Turn.id)
        .cte("ended")
    )
    columns = {
        "user_id": USER_ID,
        "conversation_id": CONVERSATION_ID,
        "turn_id": ended.c.id,
        "role": literal_column("'assistant'"),
        "content": CONTENT,
        "tool_calls": bindparam("tool_calls", None, type_=JSON()),
        "provider_state": bindparam("provider_state", None, type_=JSON()),
        "created_at": NOW,
    }
    answer = (
        insert(Message)
        .from_select(list(columns), select(*columns.values()), include_defaults=False)
        .returning(Message.id)
        .cte("answer")
    )
    return Statement(select(answer.c.id))


BEGIN_FIRST = begin_first()
FINISH = finish_turn()
