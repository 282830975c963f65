"""Reports of usage, made of the few rows of users' days and never of turns."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import BigInteger, Row, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.budgets import PICODOLLARS
from chatapi.db.models import UsageConversation, UsageDay, now
from chatapi.db.services import Service
from chatapi.errors.requests import Invalid
from chatapi.usage.counting import COUNTED
from chatapi.usage.schemas import Amounts, By, UsageItem, UsageReport

Grouping: TypeAlias = By | Literal["user"]

MOST_DAYS = 366
DAYS = 30  # if no range is given
KEYS: Mapping[str, Any] = {
    "day": UsageDay.day,
    "model": UsageDay.model,
    "user": UsageDay.user_id,
    "conversation": UsageConversation.conversation_id,
}


class UsageService(Service[UsageDay, "UsageService.Repository"]):
    """What one user has used."""

    class Repository(SQLAlchemyAsyncRepository[UsageDay]):
        model_type = UsageDay

    repository_type = Repository

    async def report(self, user_id: str, first: date | None, last: date | None, by: By) -> UsageReport:
        """Raises `Invalid` for a range that is reversed or longer than a year."""
        rows = await read(self.session, user_id, days_of(first, last), by)
        key = "conversation_id" if by == "conversation" else by
        items = [msgspec.convert({key: row[0], **amounts_of([row])}, UsageItem, strict=False) for row in rows]
        return UsageReport(items=items, total=msgspec.convert(amounts_of(rows), Amounts))


def days_of(first: date | None, last: date | None) -> tuple[date, date]:
    """The range; by default the last days until today. Raises `Invalid`."""
    last = last or max(now().date(), first or date.min)
    first = first or max(date.min + timedelta(days=DAYS - 1), last) - timedelta(days=DAYS - 1)
    if first > last:
        raise Invalid(("from", "is after `to`"))
    if (last - first).days >= MOST_DAYS:
        raise Invalid(("from", f"is more than {MOST_DAYS} days before `to`"))
    return first, last


async def read(
    session: AsyncSession, user_id: str | None, days: tuple[date, date], by: Grouping
) -> Sequence[Row[Any]]:
    """Rows of a key and the columns of `COUNTED`; of all users if `user_id` is None, which a transaction must allow."""
    table = UsageConversation if by == "conversation" else UsageDay
    key = KEYS[by]
    sums = [cast(func.sum(getattr(table, name)), BigInteger()).label(name) for name in COUNTED]
    statement = select(key, *sums).where(table.day.between(*days)).group_by(key).order_by(key)
    if user_id is not None:
        statement = statement.where(table.user_id == user_id)
    return (await session.execute(statement)).all()


def amounts_of(rows: Sequence[Row[Any]]) -> dict[str, Any]:
    """The members of `Amounts` for these rows together."""
    sums = {name: sum(getattr(row, name) for row in rows) for name in COUNTED}
    cost, unpriced = sums.pop("cost_picodollars"), sums.pop("unpriced")
    return {**sums, "cost": None if unpriced else cost / PICODOLLARS}
