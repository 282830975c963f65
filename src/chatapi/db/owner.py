"""Whose rows a transaction sees, where row-level security holds for the role that we connect as."""

from enum import Enum
from functools import cache
from typing import Final, Literal, TypeAlias

from sqlalchemy import TextClause, text


class Everyone(Enum):
    """Stands for all owners, where work serves all users at once and shows none of them another's rows."""

    EVERYONE = "everyone"


EVERYONE: Final = Everyone.EVERYONE
Owner: TypeAlias = str | Literal[Everyone.EVERYONE] | None

BYPASSES = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")


def shown_to(owner: str | Everyone) -> dict[str, str]:
    """The settings that the policies check (migration 0002)."""
    return {"chatapi.everyone": "on"} if owner is EVERYONE else {"chatapi.user_id": owner}


@cache
def set_local(*names: str) -> TextClause:
    """Sets these settings until the transaction ends, so that a pooler in transaction mode cannot pass them on."""
    calls = (f"set_config('{name}', :value_{number}, true)" for number, name in enumerate(names))
    return text(f"SELECT {', '.join(calls)}")
