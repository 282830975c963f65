"""The budgets of users: checked by the statement that begins a turn, from the few rows of a user's days."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Date, Select, bindparam, case, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.budgets import PICODOLLARS, Budget, Span, window_of
from chatapi.db.models import UsageDay, now
from chatapi.errors.requests import BudgetExceeded
from chatapi.limits.limiter import announce
from chatapi.metrics import Metrics

MICRODOLLARS = 10**6  # the unit of costs in headers, which takes whole numbers
OF_KIND: Mapping[str, Any] = {
    "tokens": UsageDay.input_tokens + UsageDay.output_tokens,
    "cost": UsageDay.cost_picodollars,
}


class Budgets:
    """All budgets of the settings; each holds for every user. Without any it is false."""

    def __init__(self, budgets: Sequence[Budget], metrics: Metrics | None = None) -> None:
        self._budgets = budgets
        self._metrics = metrics
        self._spans: Sequence[Span] = sorted({budget.span for budget in budgets})
        self._units = [
            (budget, budget.policy, 1 if budget.kind == "tokens" else PICODOLLARS // MICRODOLLARS)
            for budget in budgets
        ]
        self._told: tuple[date, str] | None = None

    def __len__(self) -> int:
        return len(self._budgets)

    def values(self, at: datetime) -> dict[str, date]:
        """The parameters of `used`: the first day of each window."""
        return {f"since_{span}": window_of(span, at)[0] for span in self._spans}

    def used(self, user_id: Any, since: Mapping[str, Any] | None = None) -> Select[*tuple[Any, ...]]:
        """What a user has used of each budget, as one row of columns `used_0`, `used_1` and so on."""
        days = {
            span: bindparam(f"since_{span}", None, type_=Date())
            if since is None
            else literal(since[f"since_{span}"], Date())
            for span in self._spans
        }
        # A month's first day is never after the day's.
        earliest = days["month" if "month" in days else "day"]
        sums = [
            func.coalesce(
                cast(
                    func.sum(case((UsageDay.day >= days[budget.span], OF_KIND[budget.kind]), else_=0)),
                    BigInteger(),
                ),
                0,
            ).label(f"used_{number}")
            for number, budget in enumerate(self._budgets)
        ]
        return select(*sums).where(UsageDay.user_id == user_id, UsageDay.day >= earliest)

    def allow(self, used: Sequence[int]) -> bool:
        return all(amount < budget.amount for budget, amount in zip(self._budgets, used, strict=True))

    def left(self, columns: Any) -> list[ColumnElement[bool]]:
        """The conditions that `allow` checks, on the columns of `used`."""
        return [columns[f"used_{number}"] < budget.amount for number, budget in enumerate(self._budgets)]

    def announce(self, used: Sequence[int], at: datetime) -> None:
        """Tell in the response's headers how much is left, as policies beside the rate limit's."""
        seconds = {span: seconds_until(window_of(span, at)[1], at) for span in self._spans}
        left = ", ".join(
            f'"{policy}";r={max(0, budget.amount - amount) // unit};t={seconds[budget.span]}'
            for (budget, policy, unit), amount in zip(self._units, used, strict=True)
        )
        announce(self._units[0][1], self._policies(at.date()), left)

    def _policies(self, day: date) -> str:
        """The value of `RateLimit-Policy`, which is the same all day."""
        if self._told is None or self._told[0] != day:
            at = datetime.combine(day, time(), UTC)
            items = []
            for budget, policy, unit in self._units:
                first, end = window_of(budget.span, at)
                name = "tokens" if budget.kind == "tokens" else "microdollars"
                seconds = (end.date() - first).days * 86_400
                items.append(f'"{policy}";q={budget.amount // unit};qu="{name}";w={seconds}')
            self._told = day, ", ".join(items)
        return self._told[1]

    async def are_left(self, session: AsyncSession, user_id: str) -> bool:
        """Whether the user may use more; announces nothing."""
        if not self._budgets:
            return True
        return self.allow((await session.execute(self.used(user_id, self.values(now())))).one())

    async def check(self, session: AsyncSession, user_id: str) -> None:
        """Announce what is left; raises `BudgetExceeded` if that is nothing."""
        if not self._budgets:
            return
        at = now()
        self.require((await session.execute(self.used(user_id, self.values(at)))).one(), at)

    def require(self, used: Sequence[int], at: datetime) -> None:
        """As `check`, with what the user has used."""
        self.announce(used, at)
        over = [
            (window_of(budget.span, at)[1], budget)
            for budget, amount in zip(self._budgets, used, strict=True)
            if amount >= budget.amount
        ]
        if not over:
            return
        end, budget = max(over, key=lambda each: each[0])
        if self._metrics is not None:
            self._metrics.budgets_refused.labels(budget.policy).inc()
        seconds = seconds_until(end, at)
        raise BudgetExceeded(
            f"The budget of {budget.words} is used up until {end:%Y-%m-%d %H:%M} UTC.",
            retry_after=seconds,
            policy=budget.policy,
        )


def seconds_until(end: datetime, at: datetime) -> int:
    return max(1, math.ceil((end - at).total_seconds()))


NO_BUDGETS: Final = Budgets([])
