"""Connections to PostgreSQL: to the one of several hosts that takes writes, and dropped instead of cancelled."""

import logging
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import asyncpg

from chatapi.db.hosts import Address

log = logging.getLogger(__name__)

REFUSALS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class NoHost(ConnectionError):
    """No host of the URL takes writes; the text has each one's reason."""


class Hosts:
    """Connects to the first host that answers and takes writes, and begins with the one that did so last.

    asyncpg knows of several hosts, too. But its time-out is for all of them together, and it begins with the first one
    each time: one that swallows packets, as a machine without power does, would hide the others.
    """

    def __init__(self, addresses: Sequence[Address], timeout: float) -> None:
        self.addresses = deque(addresses)  # in the order in which they are asked
        self._timeout = timeout  # seconds for each host
        self._last: Address | None = None
        self._connected_at = float("-inf")

    async def __call__(self, **arguments: Any) -> asyncpg.Connection:
        """Connect, as `asyncpg.connect` does with these arguments.

        Raises `NoHost`, or what is the matter with the certificate of a host.
        """
        refusals: dict[Address, Exception] = {}
        for address in list(self.addresses):
            try:
                connection = await asyncpg.connect(
                    **arguments
                    | address._asdict()
                    | {"timeout": self._timeout, "target_session_attrs": "read-write"}
                )
            except BaseException as error:
                self._pass_over(address)  # when cancelled, too, so that the next caller gets further
                if not isinstance(error, REFUSALS):
                    raise
                refusals[address] = error
            else:
                self._use(address)
                return connection
        untrusted = [each for each in refusals.values() if isinstance(each, ssl.SSLCertVerificationError)]
        if untrusted:
            raise untrusted[0]
        raise NoHost("; ".join(f"{address}: {reason(error)}" for address, error in refusals.items()))

    def leave(self, silent_since: float) -> None:
        """Begin with another host than the one in use, unless that has taken a connection since."""
        if self._connected_at < silent_since:
            self._pass_over(self._last)

    def _pass_over(self, address: Address | None) -> None:
        if self.addresses[0] == address:
            self.addresses.rotate(-1)

    def _use(self, address: Address) -> None:
        while self.addresses[0] != address:
            self.addresses.rotate(-1)
        if self._last not in {None, address}:
            log.warning("The database is now at %s", address)
        self._last = address
        self._connected_at = time.monotonic()


def reason(error: Exception) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "takes no writes"
    return "no answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that ends when a statement on it is given up.

    asyncpg would ask the server to cancel the statement. A COMMIT that waits for a standby would then end as a success on
    this server alone: we would find it, tell its user, and lose it with the server. If it is not cancelled, nobody sees it
    before the standby has it. And a server that swallows statements would swallow the request to cancel them.
    """

    def _cancel_current_command(self, *_: object) -> None:
        # Not at once: asyncpg is about to set the time-out as the statement's result.
        self._loop.call_soon(self.terminate)
