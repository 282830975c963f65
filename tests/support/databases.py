"""A `Database` like the service's, for a test that looks into the database directly."""

from sqlalchemy import func, select

from chatapi.db.database import Database
from chatapi.db.models import User
from chatapi.db.owner import EVERYONE
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.tracing import Tracing


def open_database(settings: Settings, patience: Patience | None = None) -> Database:
    return Database(settings, patience or Patience(), unread_metrics(), Tracing())


def unread_metrics() -> Metrics:
    return Metrics("1.0", None)


async def rows_of(database: Database, user_id: str) -> dict[str, int]:
    """How many rows of a user's each table has; a table that is new here is looked at too."""
    counts = {}
    async with database.transaction(EVERYONE) as session:
        for table in User.metadata.sorted_tables:
            owner = table.c.get("user_id", table.c.id if table.name == "users" else None)
            if owner is not None:
                counts[table.name] = await session.scalar(
                    select(func.count()).select_from(table).where(owner == user_id)
                )
    return {name: count or 0 for name, count in counts.items()}
