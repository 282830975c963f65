"""A connection pool that says how large it is, how many of its connections are out, and how long callers wait."""

import time
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool, event
from sqlalchemy.pool import PoolProxiedConnection

from chatapi.metrics import Metrics


def measured_pool(metrics: Metrics) -> type[AsyncAdaptedQueuePool]:
    """The class of pool for an engine: a class, because SQLAlchemy makes the pool, and anew when it must."""

    class MeasuredPool(AsyncAdaptedQueuePool):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            metrics.pool_size.set(self.size())
            event.listen(self, "checkin", self._returns)

        def connect(self) -> PoolProxiedConnection:
            began = time.perf_counter()
            try:
                return super().connect()
            finally:
                metrics.pool_wait_seconds.observe(time.perf_counter() - began)
                metrics.pool_in_use.set(self.checkedout())

        def _returns(self, *_: object) -> None:
            metrics.pool_in_use.set(self.checkedout() - 1)  # told just before the connection is back

    MeasuredPool.__module__ = AsyncAdaptedQueuePool.__module__  # after which SQLAlchemy names its logger
    return MeasuredPool
