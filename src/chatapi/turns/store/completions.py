"""What is stored of a completion that is no turn: nothing but what it used."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.database import Database
from chatapi.db.models import User
from chatapi.db.services import remember_user
from chatapi.usage.budgets import Budgets
from chatapi.usage.counting import Spent, count_alone


class CompletionStore:
    """All methods raise `DatabaseUnavailable` when the trouble lasts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def admit(self, user_id: str, budgets: Budgets) -> None:
        """Make sure that the user may use more, and has a row to count it for; raises `BudgetExceeded`."""

        async def look(session: AsyncSession) -> bool:
            await budgets.check(session, user_id)
            return await session.scalar(select(User.id).where(User.id == user_id)) is not None

        if not await self._database.read(user_id, look):
            await self._database.run(user_id, lambda session: remember_user(session, user_id))

    async def count(self, user_id: str, spent: Sequence[Spent], since: datetime) -> None:
        """Count what a completion has used that began then; not for a user who was erased meanwhile.

        If the connection is lost during COMMIT, it may be counted twice.
        """
        await self._database.run(user_id, lambda session: count_alone(session, user_id, None, spent, since))
