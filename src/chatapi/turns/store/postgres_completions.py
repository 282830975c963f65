"""The two transactions of a completion that is no turn, each as one statement (docs/adr/0013)."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import bindparam, exists, select

from chatapi.db.autocommit import Statement
from chatapi.db.models import User, now
from chatapi.turns.store.completions import CompletionStore
from chatapi.turns.store.postgres import OWNER_IS_SET, USER_ID
from chatapi.usage.budgets import Budgets
from chatapi.usage.counting import SPENT, Spent, counted_by, values_of

SINCE = bindparam("since", None, type_=User.created_at.type)


class PostgresCompletionStore(CompletionStore):
    """Asks in the plain form wherever a statement finds that something is not as it mostly is."""

    async def admit(self, user_id: str, budgets: Budgets) -> None:
        at = now()
        rows = await self._database.tried(
            lambda _: self._database.statement(known(budgets), {"user_id": user_id, **budgets.values(at)})
        )
        is_known, *used = rows[0]
        if not is_known or not budgets.allow(used):
            await super().admit(user_id, budgets)
        elif budgets:
            budgets.announce(used, at)

    async def count(self, user_id: str, spent: Sequence[Spent], since: datetime) -> None:
        values = {"user_id": user_id, "since": since, **values_of(spent)}
        await self._database.tried(lambda _: self._database.statement(count(), values))


@cache
def known(budgets: Budgets) -> Statement:
    """Whether the user has a row, and what they have used of each budget."""
    user = exists().where(User.id == USER_ID, OWNER_IS_SET)
    if not budgets:
        return Statement(select(user))
    used = budgets.used(USER_ID).where(OWNER_IS_SET).cte("used")
    return Statement(select(user, *used.c))


@cache
def count() -> Statement:
    """As `usage.counting.count_alone`."""
    user = (
        select(User.id)
        .where(OWNER_IS_SET, User.id == USER_ID, User.created_at <= SINCE)
        .with_for_update(read=True, key_share=True)
        .cte("still")
    )
    return Statement(select(user.c.id).add_cte(*counted_by(USER_ID, None, SPENT, source=user)))
