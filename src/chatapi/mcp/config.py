"""The file that `MCP_SERVERS` names, in the form that other MCP clients read."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from chatapi.mcp.servers import HttpServer, Server, StdioServer
from chatapi.patience import Patience
from chatapi.settings import Settings, SettingsError
from chatapi.text import path_and_message

if TYPE_CHECKING:
    from chatapi.mcp.client import ExternalTools

SERVER_NAME = re.compile(r"[A-Za-z0-9-]{1,32}")  # becomes part of its tools' names
VARIABLE = re.compile(r"\$\{(\w+)\}")


def external_tools(settings: Settings, patience: Patience) -> "ExternalTools | None":
    """The tools of the configured servers, without connecting to them yet. Raises `SettingsError`."""
    if settings.mcp_servers is None:
        return None
    servers = read_servers(settings.mcp_servers)
    from chatapi.mcp.client import ExternalTools  # noqa: PLC0415 - imports the SDK, which takes a second

    return ExternalTools(servers, patience)


async def silent_servers(settings: Settings, patience: Patience) -> list[str]:
    """Connect to the configured servers; the names of those that do not answer."""
    tools = external_tools(settings, patience)
    if tools is None:
        return []
    try:
        await tools.start()
        return tools.away
    finally:
        await tools.close()


def read_servers(path: str, environ: Mapping[str, str] | None = None) -> dict[str, Server]:
    """The servers by name; `${VAR}` in any text comes from the environment. Raises `SettingsError`."""
    try:
        document = msgspec.json.decode(Path(path).read_bytes())
        servers = document.get("mcpServers") if isinstance(document, dict) else None
        if not isinstance(servers, dict):
            raise SettingsError(f'MCP_SERVERS: {path} has no object "mcpServers"')
        filled = with_variables(servers, os.environ if environ is None else environ)
    except OSError as error:
        raise SettingsError(f"MCP_SERVERS: {path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"MCP_SERVERS: {path} is not JSON: {error}") from None
    except RecursionError:
        raise SettingsError(f"MCP_SERVERS: {path} is nested too deeply") from None
    return {name: server_of(name, value) for name, value in filled.items()}


def with_variables(value: Any, environ: Mapping[str, str]) -> Any:
    match value:
        case str():
            return VARIABLE.sub(lambda match: variable(match[1], environ), value)
        case dict():
            return {key: with_variables(each, environ) for key, each in value.items()}
        case list():
            return [with_variables(each, environ) for each in value]
    return value


def variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise SettingsError(f"MCP_SERVERS: ${{{name}}} is not in the environment")
    return environ[name]


def server_of(name: str, value: Any) -> Server:
    if not SERVER_NAME.fullmatch(name):
        raise SettingsError(
            f"MCP_SERVERS: {name} is not a name of letters, digits and hyphens (32 at the most)"
        )
    kind: Any = HttpServer if isinstance(value, dict) and "url" in value else StdioServer
    try:
        server: Server = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        path, message = path_and_message(error)
        raise SettingsError(f"MCP_SERVERS: {'.'.join(filter(None, [name, path]))}: {message}") from None
    return server
