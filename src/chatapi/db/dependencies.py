"""A service as what a controller's handlers are given, on the session of their request."""

from collections.abc import Callable
from typing import Any

from litestar.di import NamedDependency, Provide
from sqlalchemy.ext.asyncio import AsyncSession


def service_dependency(service: Callable[..., Any], name: str) -> dict[str, Provide]:
    """Advanced Alchemy has one, too, whose module brings Alembic, Mako and Pygments."""

    def provide(db_session: NamedDependency[AsyncSession]) -> Any:
        return service(session=db_session)

    return {name: Provide(provide, sync_to_thread=False)}
