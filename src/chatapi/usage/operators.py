"""The table of `chatapi usage`, for operators: what users have used."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from chatapi import __version__
from chatapi.budgets import PICODOLLARS
from chatapi.db.database import Database
from chatapi.db.owner import EVERYONE
from chatapi.db.schema import Schema
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.tracing import Tracing
from chatapi.usage.counting import COUNTED
from chatapi.usage.service import Grouping, days_of, read

SHOWN = COUNTED[:4]


async def table_of(
    settings: Settings, user_id: str | None, days: tuple[date | None, date | None], by: Grouping | None
) -> Sequence[str]:
    """A heading, a line each, and the total. Raises `Invalid` as `days_of` does."""
    by = by or ("user" if user_id is None else "day")
    range_ = days_of(*days)
    database = Database(settings, Patience(), Metrics(__version__, settings.chatapi_build), Tracing())
    try:
        await Schema(database, settings, Patience()).ensure_current()
        async with database.transaction(user_id or EVERYONE, reads_only=True) as session:
            rows = await read(session, user_id, range_, by)
    finally:
        await database.close()
    lines = [line(row[0], row._asdict()) for row in rows]
    total = {name: sum(getattr(row, name) for row in rows) for name in COUNTED}
    return ["\t".join((by, *SHOWN, "cost")), *lines, line("total", total)]


def line(key: Any, amounts: dict[str, int]) -> str:
    cost = "-" if amounts["unpriced"] else f"{Decimal(amounts['cost_picodollars']) / PICODOLLARS:f}"
    return "\t".join((str(key), *(str(amounts[name]) for name in SHOWN), cost))
