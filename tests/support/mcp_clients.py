"""MCP's official client, as a user of the service runs it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.serving import NO_AUTHORITIES, token_for


@asynccontextmanager
async def connected(
    base_url: str, user_id: str, *, mode: str = "auto", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Client]:
    """A connected client. `mode`: `legacy` begins with `initialize`; `2026-07-28` is stateless; `auto` asks the server."""
    authorization = {"Authorization": f"Bearer {token_for(user_id)}"}
    async with (
        httpx2.AsyncClient(
            headers={**authorization, **(headers or {})}, timeout=60, verify=NO_AUTHORITIES
        ) as http,
        Client(streamable_http_client(f"{base_url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def message(method: str, params: dict[str, Any] | None = None, *, id_: int = 1) -> dict[str, Any]:
    """A JSON-RPC request as today's clients send it, with its protocol version in `_meta`."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": {**(params or {}), "_meta": meta}}


def headers_for(method: str, name: str | None = None) -> dict[str, str]:
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
    }
    return headers if name is None else {**headers, "Mcp-Name": name}
