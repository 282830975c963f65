"""What a completion that is no turn asks of the database before it begins."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.db.database import Database
from chatapi.db.models import User
from chatapi.db.services import remember_user
from chatapi.usage.budgets import Budgets


class CompletionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def admit(self, user_id: str, budgets: Budgets) -> None:
        """Make sure that the user may use more, and has a row to count it for; raises `BudgetExceeded` and `DatabaseUnavailable`."""

        async def look(session: AsyncSession) -> bool:
            await budgets.check(session, user_id)
            return await session.scalar(select(User.id).where(User.id == user_id)) is not None

        if not await self._database.read(user_id, look):
            await self._database.run(user_id, lambda session: remember_user(session, user_id))
