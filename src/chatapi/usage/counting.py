"""Counts what answers of models used into the user's days: in the transaction that ends a turn, or in one by itself.

Rows of a user's day are locked last in a transaction, and in one order, so that a user's turns that end at the same time
wait for each other for no longer than a COMMIT, and never in a circle.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnClause,
    Date,
    FromClause,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.expression import CTE

from chatapi.agent.ports import Usage
from chatapi.budgets import PICODOLLARS
from chatapi.db.autocommit import Statement
from chatapi.db.database import Database
from chatapi.db.models import UsageConversation, UsageDay, User
from chatapi.db.owner import OWNER_IS_SET, USER_ID
from chatapi.db.services import Upsert, insert_into, writes_together
from chatapi.usage.schemas import TurnUsage

Table: TypeAlias = type[UsageDay] | type[UsageConversation]

# No answer has as many. Counts that a server makes up must not be more than a column takes.
MOST_TOKENS = 10**8
COUNTED = ("turns", "input_tokens", "cached_input_tokens", "output_tokens", "cost_picodollars", "unpriced")
COLUMNS: Sequence[ColumnClause[Any]] = [
    column("day", Date()),
    column("model", Text()),
    *(column(name, BigInteger()) for name in COUNTED),
]


class Spent(Usage, frozen=True, kw_only=True):
    """What one answer used, with its cost in picodollars, if it has a price. `turns` is 1 for the first of a turn, so one that is run again counts again."""

    day: date
    model: str
    cost_picodollars: int | None
    turns: int = 0


class Unheard(NamedTuple):
    """An entry of the journal that was perhaps written, and how many answers, the oldest, it then has counted."""

    position: int
    answers: int


class Spending:
    """What a turn has used: `before` until it waited for answers, and since then in this run."""

    def __init__(self, before: TurnUsage | None = None) -> None:
        self._before = before
        self._all: list[Spent] = []
        self._counted = 0
        self.unheard: Unheard | None = None

    def add(self, usage: Usage) -> None:
        """Add an answer, if it was metered: `MeasuredAgent` makes `Spent` of all."""
        if isinstance(usage, Spent):
            self._all.append(usage)

    @property
    def usage(self) -> TurnUsage | None:
        """All tokens, with their cost if all have one; None if no server has counted any."""
        told = [*self._all, *([] if self._before is None else [self._before])]
        if not any(used.input_tokens or used.output_tokens for used in told):
            return None
        return TurnUsage(
            input_tokens=sum(used.input_tokens for used in told),
            output_tokens=sum(used.output_tokens for used in told),
            cached_input_tokens=sum(used.cached_input_tokens for used in told),
            cost=self._cost,
        )

    @property
    def _cost(self) -> float | UnsetType:
        """In USD; unknown if the price of an answer is."""
        before = 0.0 if self._before is None else self._before.cost
        costs = [used.cost_picodollars for used in self._all]
        if before is UNSET or None in costs:
            return UNSET
        return (round(before * PICODOLLARS) + sum(filter(None, costs))) / PICODOLLARS

    @property
    def uncounted(self) -> Sequence[Spent]:
        return self._all[self._counted :]

    def counting(self, position: int) -> Sequence[Spent]:
        """What the entry of the journal at this position counts, once it is written."""
        spent = self.uncounted
        self.unheard = Unheard(position, len(spent))
        return spent

    def counted(self, spent: Sequence[Spent]) -> None:
        """These, the oldest that were not, are counted."""
        self._counted += len(spent)
        self.unheard = None


def summed(spent: Iterable[Spent], key: str | None = None) -> list[dict[str, Any]]:
    """Rows of the columns of `COUNTED`, one for each day (and `key`), in the order in which all transactions lock them."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in spent:
        keys = {"day": each.day} if key is None else {"day": each.day, key: getattr(each, key)}
        row = rows.setdefault(tuple(keys.values()), keys | dict.fromkeys(COUNTED, 0))
        for name in COUNTED[:4]:
            row[name] += getattr(each, name)
        row["cost_picodollars"] += each.cost_picodollars or 0
        row["unpriced"] += each.cost_picodollars is None
    return [rows[place] for place in sorted(rows)]


async def count(
    session: AsyncSession, user_id: str, conversation_id: int | None, spent: Sequence[Spent]
) -> None:
    """Count answers in a transaction that is under way, as the last thing in it; None is no conversation."""
    if not spent:
        return
    if writes_together(session):
        values = parameters_of(user_id, conversation_id, spent)
        await session.execute(counting(in_conversation=conversation_id is not None), values)
        return
    for table, rows in rows_of(user_id, conversation_id, spent):
        await session.execute(added_to(table, insert_into(session, table).values(rows)))


async def count_alone(
    session: AsyncSession, user_id: str, conversation_id: int | None, spent: Sequence[Spent], since: datetime
) -> None:
    """As `count`, for answers outside a turn's own transactions; not for a user who was erased since that moment."""
    user = select(User.id).where(User.id == user_id, User.created_at <= since)
    if spent and await session.scalar(user.with_for_update(read=True, key_share=True)) is not None:
        await count(session, user_id, conversation_id, spent)


async def count_outside(
    database: Database, user_id: str, conversation_id: int | None, spent: Sequence[Spent], since: datetime
) -> None:
    """As `count_alone`, in a transaction by itself, which on PostgreSQL is one statement.

    If the connection is lost during COMMIT, it may be counted twice. Raises `DatabaseUnavailable`.
    """
    if not database.takes_statements:
        await database.run(
            user_id, lambda session: count_alone(session, user_id, conversation_id, spent, since)
        )
    elif spent:
        statement = counting_alone(in_conversation=conversation_id is not None)
        values = parameters_of(user_id, conversation_id, spent) | {"since": since}
        await database.tried(lambda _: database.statement(statement, values))


def rows_of(
    user_id: Any, conversation_id: Any, spent: Sequence[Spent]
) -> Sequence[tuple[Table, list[dict[str, Any]]]]:
    """The rows to add, by table."""
    of_days = UsageDay, [row | {"user_id": user_id} for row in summed(spent, "model")]
    if conversation_id is None:
        return (of_days,)
    ids = {"user_id": user_id, "conversation_id": conversation_id}
    return of_days, (UsageConversation, [row | ids for row in summed(spent)])


# JSON and not arrays, whose types asyncpg would look up on each connection.
SPENT = bindparam("spent", None, type_=Text())
CONVERSATION_ID = bindparam("conversation_id", None, type_=BigInteger())
SINCE = bindparam("since", None, type_=User.created_at.type)


def values_of(spent: Sequence[Spent]) -> dict[str, str]:
    """The value of `SPENT`."""
    return {"spent": msgspec.json.encode(summed(spent, "model")).decode()}


def parameters_of(user_id: str, conversation_id: int | None, spent: Sequence[Spent]) -> dict[str, Any]:
    place = {} if conversation_id is None else {"conversation_id": conversation_id}
    return {"user_id": user_id, **place, **values_of(spent)}


@cache
def counting(*, in_conversation: bool) -> Select[Any]:
    """`count` on PostgreSQL. Making it takes longer than running it."""
    return select(literal(1)).add_cte(*counted_by(in_conversation=in_conversation))


@cache
def counting_alone(*, in_conversation: bool) -> Statement:
    """`count_alone` on PostgreSQL."""
    user = (
        select(User.id)
        .where(OWNER_IS_SET, User.id == USER_ID, User.created_at <= SINCE)
        .with_for_update(read=True, key_share=True)
        .cte("still")
    )
    counted = counted_by(source=user, in_conversation=in_conversation)
    return Statement(select(user.c.id).add_cte(*counted))


def counted_by(source: CTE | None = None, *, in_conversation: bool = True) -> Sequence[CTE]:
    """The inserts of `SPENT` into the two tables, on PostgreSQL; with a source, only if that has a row.

    Without a conversation there is one insert.
    """
    rows = func.json_to_recordset(cast(SPENT, JSON()))
    used = rows.table_valued(*COLUMNS).render_derived("used", with_types=True)
    found: FromClause = used if source is None else used.join(source, true())
    of_day = select(USER_ID, used.c.day, used.c.model, *(used.c[name] for name in COUNTED))
    counted_day = inserted(UsageDay, "model", of_day.select_from(found))
    if not in_conversation:
        return (counted_day,)
    of_conversation = select(
        USER_ID, used.c.day, CONVERSATION_ID, *(func.sum(used.c[name]) for name in COUNTED)
    )
    return (
        counted_day,
        inserted(
            UsageConversation, "conversation_id", of_conversation.select_from(found).group_by(used.c.day)
        ),
    )


def inserted(table: Table, key: str, rows: Select[Any]) -> CTE:
    insert = postgresql.insert(table).from_select(
        ["user_id", "day", key, *COUNTED], rows, include_defaults=False
    )
    return added_to(table, insert).cte(f"counted_{table.__tablename__}")


def added_to(table: Table, insert: Upsert) -> Upsert:
    """The insert, which adds to a row that is there."""
    columns = table.__table__.c
    return insert.on_conflict_do_update(
        index_elements=[column.name for column in table.__table__.primary_key],
        set_={name: columns[name] + insert.excluded[name] for name in COUNTED},
    )
