"""Reads several hosts out of a URL, in libpq's form or in SQLAlchemy's."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatapi.settings import SettingsError

# The hosts of a libpq URL, which SQLAlchemy reads only if there is one. A password may hold a `/`, as for SQLAlchemy.
SEVERAL = re.compile(r"([\w+]+://(?:[^:/@]*(?::[^@]*)?@)?)([^/?@]+,[^/?@]*)(.*)", re.DOTALL)
HOST = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?")
DEFAULT_PORT = "5432"
LARGEST_PORT = 65_535
# The service writes, and a standby takes no writes. So these are what it can use.
TARGETS = ("read-write", "primary")


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split(database_url: str) -> tuple[str, str]:
    """The URL without its hosts, and these; as it is, and nothing, if it has one host at most before its path."""
    found = SEVERAL.fullmatch(database_url)
    return (database_url, "") if found is None else (found[1] + found[3], found[2])


def addresses_of(names: str, host: str | None, port: int | None, query: dict[str, Any]) -> list[Address]:
    """The addresses of a URL that has several hosts, or one of which it wants to know that it takes writes; or none.

    `names` are those that were split off, `host` and `port` what SQLAlchemy has read. In the query it is `host=a,b&port=1,2`
    for libpq and `host=a:1&host=b:2` for SQLAlchemy. All that is about this is taken out of the query.
    """
    target = query.pop("target_session_attrs", None)
    names = names or joined(query.get("host", "")) or host or ""
    several = "," in names
    if target not in {None, *TARGETS} and (several or target != "any"):
        raise SettingsError(
            f"DATABASE_URL: target_session_attrs is one of {', '.join(TARGETS)}: the service writes"
        )
    if not several and target in {None, "any"}:
        return []
    ports = joined(query.pop("port", str(port or DEFAULT_PORT))).split(",")
    query.pop("host", None)
    hosts = names.split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise SettingsError(f"DATABASE_URL: it has {len(hosts)} hosts and {len(ports)} ports")
    return [address_of(*each) for each in zip(hosts, ports, strict=True)]


def address_of(host: str, port: str) -> Address:
    """The address of a host, with this port unless it has one of its own."""
    found = HOST.fullmatch(host)
    port = (found and found[3]) or port
    if found is None or not port.isdecimal() or int(port) > LARGEST_PORT:
        raise SettingsError("DATABASE_URL: several hosts are written as host:port,host:port")
    return Address(found[1] or found[2], int(port))


def joined(values: str | Sequence[str]) -> str:
    """A parameter's values. SQLAlchemy has several of them as a sequence."""
    return values if isinstance(values, str) else ",".join(values)
