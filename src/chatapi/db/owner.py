"""Whose rows a transaction sees, where row-level security holds for the role that we connect as."""

from enum import Enum
from functools import cache
from typing import Final, Literal, NamedTuple, TypeAlias

from sqlalchemy import Text, TextClause, bindparam, func, select, text, true


class Everyone(Enum):
    """Stands for all owners, where work serves all users at once and shows none of them another's rows."""

    EVERYONE = "everyone"


class KeyHash(NamedTuple):
    """Stands for the owner of the API key with this hash, who is not known before its row is found (migration 0013)."""

    hash: str


EVERYONE: Final = Everyone.EVERYONE
Owner: TypeAlias = str | Literal[Everyone.EVERYONE] | KeyHash | None

# Of Citus: which SET commands of a transaction also go to the workers.
PROPAGATION = "citus.propagate_set_commands"
BYPASSES = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")

# For a statement that is its own transaction: these set its owner until it ends. PostgreSQL evaluates a condition without
# a column before it reads anything (EXPLAIN: One-Time Filter): where this one stands, the owner is set.
USER_ID = bindparam("user_id", None, type_=Text())
OWNER = select(func.set_config("chatapi.user_id", USER_ID, true()).label("id")).cte("owner")
OWNER_IS_SET = select(OWNER.c.id).scalar_subquery().is_not(None)
EVERYONE_SET = select(func.set_config("chatapi.everyone", "on", true()).label("set")).cte("everyone")
EVERYONE_IS_SET = select(EVERYONE_SET.c.set).scalar_subquery().is_not(None)


def shown_to(owner: str | Everyone | KeyHash) -> dict[str, str]:
    """The settings that the policies check (migration 0002)."""
    if isinstance(owner, KeyHash):
        return {"chatapi.key_hash": owner.hash}
    return {"chatapi.everyone": "on"} if owner is EVERYONE else {"chatapi.user_id": owner}


@cache
def set_local(*names: str) -> TextClause:
    """Sets these settings until the transaction ends, so that a pooler in transaction mode cannot pass them on."""
    calls = (f"set_config('{name}', :value_{number}, true)" for number, name in enumerate(names))
    return text(f"SELECT {', '.join(calls)}")


def passed_on(name: str, value: str) -> str:
    """As `set_local`, for Citus: its workers hear of this command, and not of the function. It takes no parameters."""
    quoted = value.replace("\\", "\\\\").replace("'", "''")
    return f"SET LOCAL {name} = E'{quoted}'"
