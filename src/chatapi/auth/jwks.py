"""An issuer's public keys, fetched over HTTP and kept in memory. No framework here.

They are a cache, which any process can rebuild. docs/adr/0008-jwks.md says why it fetches when it does.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable

import httpx
from jwt import PyJWK

from chatapi.auth.keys import BadKeySet, EmptyKeySet, parse_key_set
from chatapi.errors.auth import JWKSUnavailable
from chatapi.metrics import Metrics
from chatapi.patience import Patience

log = logging.getLogger(__name__)

FRESH_SECONDS = 600.0  # after this the next request starts a fetch and does not wait for it
STALE_SECONDS = 3_600.0  # after this it waits, so that a key revoked in a quiet night is not used again
PAUSE_SECONDS = 5.0  # between searches for unknown keys after a burst of them, and after a failure
SEARCH_BURST = 4  # a few stray tokens must not block the new tokens after a rotation
# How long a request waits if the last fetch failed: the issuer is probably still away.
PATIENCE_SECONDS = 0.5
MAX_BYTES = 256 * 1024  # a hundred RSA keys with their certificates; read before anything is parsed
HEADERS = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


class JWKS:
    """The keys published at one URL. All requests share one fetch; `clock` is in seconds and never goes back."""

    def __init__(
        self,
        url: str,
        patience: Patience,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._metrics = metrics
        self._clock = clock
        self._fetch_seconds = patience.keys_fetch
        # Reads the system's certificates once, and not on the event loop.
        self._tls = httpx.create_ssl_context()
        self._keys: tuple[PyJWK, ...] = ()
        self._fetched_at = -math.inf
        self._failed = False
        self._retry_at = 0.0
        self._searches_restored_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._is_closed = False

    async def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key that `kid` names, if it is for this algorithm; without a `kid`, the only key for it.

        An unknown `kid` triggers a new fetch: for all requests together four times in a burst, then once every 5 s.
        Raises `JWKSUnavailable` if no fetch has ever succeeded.
        """
        await self._renew()
        if self._is_unknown(kid, algorithm) and not (self._failed and not self._keys):
            await self._search(kid, algorithm)
        if not self._keys:
            seconds = max(1, math.ceil(self._retry_at - self._clock()))
            raise JWKSUnavailable(
                "The keys that tokens are checked with cannot be fetched; try again shortly.",
                retry_after=seconds,
            )
        fitting = [key for key in self._keys if kid in {None, key.key_id} and key.algorithm_name == algorithm]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    async def close(self) -> None:
        """Cancel a running fetch; those who waited for it begin no other."""
        self._is_closed = True
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _is_unknown(self, kid: str | None, algorithm: str) -> bool:
        """Whether a newer key set could help: it cannot if `kid` names a known key of another algorithm."""
        if kid is None:
            return all(key.algorithm_name != algorithm for key in self._keys)
        return all(key.key_id != kid for key in self._keys)

    async def _renew(self) -> None:
        if self._is_closed:
            return
        age = self._clock() - self._fetched_at
        if age > FRESH_SECONDS and (self._is_fetching or self._clock() >= self._retry_at):
            fetch = self._fetch()
            if age > STALE_SECONDS:
                await asyncio.wait({fetch}, timeout=PATIENCE_SECONDS if self._failed else None)

    async def _search(self, kid: str | None, algorithm: str) -> None:
        """Fetch once more, for all: the issuer may have rotated its keys, even after a running fetch began."""
        if self._is_fetching:
            await asyncio.wait({self._fetch()})
        if self._is_unknown(kid, algorithm) and (self._is_fetching or self._may_search()):
            await asyncio.wait({self._fetch()})

    def _may_search(self) -> bool:
        """Take from a token bucket, which is stored as the time when it is full again."""
        if self._is_closed:
            return False
        now = self._clock()
        restored_at = max(self._searches_restored_at, now) + PAUSE_SECONDS
        if restored_at > now + SEARCH_BURST * PAUSE_SECONDS:
            return False
        self._searches_restored_at = restored_at
        return True

    @property
    def _is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def _fetch(self) -> asyncio.Task[None]:
        """The running fetch, or a new one: a separate task, so that the end of a request cannot cancel it."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._replace_keys())
        return self._fetching

    async def _replace_keys(self) -> None:
        try:
            async with asyncio.timeout(self._fetch_seconds):
                keys = parse_key_set(await self._download())
        except Exception as error:  # noqa: BLE001 - any error of a foreign server leaves the old keys
            # With an empty set the issuer is up, and signing its next token creates a key.
            self._failed = not isinstance(error, EmptyKeySet)
            self._count("failure")
            self._retry_at = self._clock() + PAUSE_SECONDS
            kept = f"{len(self._keys)} old keys are kept" if self._keys else "there are none yet"
            log.warning(
                "The keys at %s were not fetched, and %s: %s",
                self._url,
                kept,
                str(error) or type(error).__name__,
            )
        else:
            self._keys, self._fetched_at, self._failed = keys, self._clock(), False
            self._count("success")

    def _count(self, outcome: str) -> None:
        self._metrics.jwks_fetches.labels(outcome).inc()

    async def _download(self) -> bytes:
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=self._fetch_seconds) as client,
            # Follow no redirect: another host would then decide who our users are.
            client.stream("GET", self._url, headers=HEADERS, follow_redirects=False) as response,
        ):
            if response.status_code != 200:
                raise BadKeySet(f"it answered {response.status_code} (redirects are not followed)")
            body = bytearray()
            # Do not decompress: a small body could become a large one.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise BadKeySet(f"it sent more than {MAX_BYTES} bytes")
            return bytes(body)
