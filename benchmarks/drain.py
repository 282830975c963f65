"""Simulates the time after an outage of the database: all clients come back at once, and new ones come as ever.

    .venv/bin/python -m benchmarks.drain

Arithmetic says how long the work takes that was left undone. It does not say how long callers wait meanwhile, since those
who wait for longer than the pool lets them are told 503, and come again.
"""

import heapq
import random
from collections import deque
from typing import NamedTuple

from chatapi.patience import Patience

RATE = 1_000.0  # turns a second that PostgreSQL can do; only the load's part of it matters
LOADS = (0.5, 0.7, 0.8, 0.9)
OUTAGES = (15.0, 60.0)
STEP = 0.01
LONG = 1.0  # seconds of waiting that somebody minds
RETRY_AFTER = (1.0, 1.5)  # as told, and a little later
POOL = float(Patience().database_pool)


class Drain(NamedTuple):
    """Seconds from the end of the outage until nobody waits long, the longest wait for an answer or a 503, and 503s after it."""

    seconds: float
    longest: float
    told_again: float


def drain(load: float, outage: float, chance: random.Random) -> Drain:
    """After an outage in which each caller is told 503 at once, and comes again until it is answered."""
    waiting: deque[float] = deque()  # when each came, in order
    returning: list[float] = []
    now = last_long = longest = capacity = 0.0
    came = told = 0
    while now < outage or now - last_long < 10.0:
        coming = sum(chance.random() < load * RATE * STEP / 20 for _ in range(20))
        came += coming
        while returning and returning[0] <= now:
            heapq.heappop(returning)
            coming += 1
        if now < outage:
            for _ in range(coming):
                heapq.heappush(returning, now + chance.uniform(*RETRY_AFTER))
            last_long = now
        else:
            waiting.extend([now] * coming)
            while waiting and now - waiting[0] > POOL:
                waiting.popleft()
                heapq.heappush(returning, now + chance.uniform(*RETRY_AFTER))
                told += 1
                last_long, longest = now, POOL
            capacity = min(capacity + RATE * STEP, RATE)
            while waiting and capacity >= 1:
                capacity -= 1
                waited = now - waiting.popleft()
                longest = max(longest, waited)
                if waited > LONG:
                    last_long = now
        now += STEP
    return Drain(last_long - outage, longest, told / came)


def main() -> None:
    chance = random.Random(1)
    print(
        f"{'load':>6}{'outage':>8}{'by arithmetic':>15}{'drained':>9}{'longest wait':>14}{'503 after it':>14}"
    )
    for outage in OUTAGES:
        for load in LOADS:
            found = drain(load, outage, chance)
            print(
                f"{load:>6.0%}{outage:>6.0f} s{outage * load / (1 - load):>13.0f} s{found.seconds:>7.0f} s"
                f"{found.longest:>12.1f} s{found.told_again:>14.1%}"
            )


if __name__ == "__main__":
    main()
