"""The one place that sends requests to models: one aiohttp session a process, one request an answer.

Three habits of aiohttp shape this code: it takes the end of a connection for the end of a body, closes a response
only at the end of its block, and never sends a POST again.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.request import getproxies, proxy_bypass

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector
from aiohttp.http_exceptions import HttpProcessingError

from chatapi import __version__
from chatapi.agent.wire.formats import Format, Reader, Request, to_text
from chatapi.agent.wire.speech import Said
from chatapi.agent.wire.sse import EventSplitter, EventTooLong
from chatapi.agent.wire.trouble import Trouble
from chatapi.settings import SettingsError

CONNECT_SECONDS = 5.0  # a connection not made by then never will be
KEEP_ALIVE_SECONDS = 30.0  # less than providers' load balancers keep an idle connection
DNS_SECONDS = 60  # how long an address is cached, so that not every call looks it up
REST_SECONDS = 1.0  # waits for the end of a body whose answer is whole, so that its connection is reused
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024


class ModelClient:
    """An asynchronous context manager; requests go through the environment's proxy (`HTTPS_PROXY`, `NO_PROXY`).

    Certificates are checked against the system's authorities or those of `SSL_CERT_FILE`.
    """

    def __init__(self) -> None:
        # Read once: with `trust_env`, aiohttp would read files in a thread for each request.
        self._proxies = getproxies()
        check_proxies(self._proxies)
        self._session: ClientSession | None = None
        self._resting: dict[ClientResponse, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        connector = TCPConnector(
            limit=0,  # each turn may have one
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            ttl_dns_cache=DNS_SECONDS,
            ssl=ssl.create_default_context(),
        )
        self._session = ClientSession(
            connector=connector,
            # No limit on reading: the turn's own time limits that.
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": f"chatapi/{__version__}"},
        )
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        for rest in list(self._resting.values()):
            rest.cancel()
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, base_url: str, request: Request, format_: Format, reader: Reader
    ) -> AsyncIterator[Said]:
        """Send a request and read its answer into `reader` as it arrives; raises `Trouble`."""
        try:
            response = await self._begin(base_url, request, format_)
            del request  # it may be large, and the answer may take minutes
            # No generator of its own for this: each takes a kilobyte for as long as the stream is open.
            try:
                if media_type_of(response) == "application/json":  # requested, or the server cannot stream
                    for said in reader.whole(await limited(response, MAX_BODY_BYTES)):
                        yield said
                else:
                    splitter = EventSplitter()
                    async for piece in response.content.iter_any():
                        for said in heard(splitter.feed(piece), reader):
                            yield said
                        if reader.is_over:
                            break
                    if not splitter.had_events:
                        raise Trouble("no-events")
                self._leave_connection(response)
            finally:
                self._close(response)
        except EventTooLong as error:
            raise Trouble("broken", "an event without end") from error
        except (ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            if not reader.is_whole:
                raise Trouble("away", type(error).__name__) from error

    async def _begin(self, base_url: str, request: Request, format_: Format) -> ClientResponse:
        """Send a request; returns the response to read the answer from, or raises the `Trouble` that it reports.

        A request that the format can adapt is sent again as adapted.
        """
        if self._session is None:
            raise RuntimeError("the client is not open")
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **request.headers}
        while True:
            response = await self._session.post(
                base_url + request.path,
                data=encoded(request.body),
                headers=headers,
                allow_redirects=False,
                proxy=proxy_of(base_url, self._proxies),
            )
            if response.status == 200:
                return response
            try:
                body = await limited(response, MAX_ERROR_BYTES)
            finally:
                response.close()
            trouble = format_.refusal(response.status, response.headers, body)
            if (adapted := format_.adapt(request, trouble)) is None:
                raise trouble
            request = adapted

    def _close(self, response: ClientResponse) -> None:
        """Free the response's place in the pool, which nothing else does."""
        if response not in self._resting:
            response.close()

    async def get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """The status and the body of a GET, for a server's information about itself; raises `Trouble`."""
        if self._session is None:
            raise RuntimeError("the client is not open")
        try:
            async with self._session.get(
                url, headers=headers, allow_redirects=False, proxy=proxy_of(url, self._proxies)
            ) as response:
                return response.status, await limited(response, MAX_BODY_BYTES)
        except (ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            raise Trouble("away", type(error).__name__) from error

    def _leave_connection(self, response: ClientResponse) -> None:
        """Read a whole answer's body to its end, so that the next request can reuse the connection."""
        if not response.content.at_eof():
            self._resting[response] = rest = asyncio.create_task(self._read_rest(response))
            rest.add_done_callback(lambda _: self._resting.pop(response))

    async def _read_rest(self, response: ClientResponse) -> None:
        with suppress(ClientError, TimeoutError, OSError):
            async with asyncio.timeout(REST_SECONDS):
                await response.content.read()
        response.close()


def heard(events: Iterable[bytes], reader: Reader) -> Iterator[Said]:
    """The pieces of the answer in these events, up to its end."""
    for data in events:
        yield from reader.event(data)
        if reader.is_over:
            return


def media_type_of(response: ClientResponse) -> str:
    """As `ClientResponse.content_type`, which takes 1.6 KiB for as long as the response is open."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def limited(response: ClientResponse, size: int) -> bytes:
    """The body, at most `size` bytes; raises `Trouble` for a longer one."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > size:
            raise Trouble("broken", f"a body of more than {size} bytes", status=response.status)
    return bytes(body)


def encoded(body: Mapping[str, object]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # half a surrogate pair, from a row that an earlier version stored
        return to_text(body).encode()


def proxy_of(url: str, proxies: dict[str, str]) -> str | None:
    """The proxy for an address: the one of its scheme, unless `NO_PROXY` exempts its host."""
    scheme, _, rest = url.partition("://")
    proxy = proxies.get(scheme)
    if proxy is None or proxy_bypass(rest.partition("/")[0]):
        return None
    return proxy


def check_proxies(proxies: Mapping[str, str]) -> None:
    """Raises `SettingsError` for a proxy that aiohttp would silently ignore or address wrongly."""
    for scheme in ("http", "https"):
        proxy = proxies.get(scheme, "")
        if proxy and not proxy.startswith("http://"):
            name = f"{scheme.upper()}_PROXY" if f"{scheme.upper()}_PROXY" in os.environ else f"{scheme}_proxy"
            raise SettingsError(f"{name}: is not an http:// proxy, which is the one kind that is spoken to")
