"""What a completion that is no turn asks before it begins, as one statement (docs/adr/0013)."""

from functools import cache

from sqlalchemy import exists, select

from chatapi.db.autocommit import Statement
from chatapi.db.models import User, now
from chatapi.db.owner import OWNER_IS_SET, USER_ID
from chatapi.turns.store.completions import CompletionStore
from chatapi.usage.budgets import Budgets


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


@cache
def known(budgets: Budgets) -> Statement:
    """Whether the user has a row, and what they have used of each budget."""
    user = exists().where(User.id == USER_ID, OWNER_IS_SET)
    if not budgets:
        return Statement(select(user))
    used = budgets.used(USER_ID).where(OWNER_IS_SET).cte("used")
    return Statement(select(user, *used.c))
