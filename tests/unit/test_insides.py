"""The private parts of libraries that we rely on: a version without one of them fails here, by name.

These libraries promise nothing about these parts, so each has an upper bound at the next version that may change them.
"""

import inspect
import re
import tomllib
from typing import Any

import asyncpg
import httptools
import pytest
import uvicorn
from packaging.requirements import Requirement
from sqlalchemy import Connection
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_cursor
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tests.support.serving import REPOSITORY


@pytest.mark.parametrize("package", ["uvicorn", "httptools", "asyncpg", "sqlalchemy"])
def test_has_an_upper_bound(package: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (found,) = (each for each in map(Requirement, project["dependencies"]) if each.name == package)
    assert any(specifier.operator == "<" for specifier in found.specifier)


class TestUvicorn:
    """`web.server` subclasses its server and its protocol."""

    async def test_a_server_keeps_what_it_listens_on_and_what_it_makes_a_connection_of(self) -> None:
        config = uvicorn.Config(lambda: None, http=HttpToolsProtocol)
        config.load()
        assert config.http_protocol_class is HttpToolsProtocol
        assert config.lifespan_class(config).state == {}
        assert isinstance(uvicorn.Server(config).server_state, ServerState)
        assert "self.servers" in inspect.getsource(uvicorn.Server.startup)
        assert "self.lifespan =" in inspect.getsource(uvicorn.Server._serve)
        assert list(inspect.signature(uvicorn.Server.shutdown).parameters) == ["self", "sockets"]

    async def test_a_protocol_keeps_the_head_that_it_reads(self) -> None:
        config = uvicorn.Config(lambda: None)
        config.load()
        protocol = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={})
        assert protocol.cycle is None
        assert hasattr(protocol, "transport")
        assert hasattr(protocol.loop, "call_later")
        protocol.on_message_begin()
        assert (protocol.url, protocol.headers) == (b"", [])

    def test_a_protocol_asks_no_more_of_its_pipeline_than_ours_can(self) -> None:
        asked = re.findall(r"self\.pipeline\b(.*)", inspect.getsource(HttpToolsProtocol))
        assert {each.partition("(")[0] for each in asked[1:]} == {".appendleft", ":", ".pop"}

    @pytest.mark.parametrize(
        ("method", "parameters"),
        [
            ("shutdown", []),
            ("pause_writing", []),
            ("resume_writing", []),
            ("connection_lost", ["exc"]),
            ("on_message_begin", []),
            ("on_headers_complete", []),
            ("data_received", ["data"]),
            ("send_400_response", ["msg"]),
        ],
    )
    def test_a_protocol_is_told_by_these_methods(self, method: str, parameters: list[str]) -> None:
        assert list(inspect.signature(getattr(HttpToolsProtocol, method)).parameters)[1:] == parameters


def test_what_a_callback_of_httptools_raises_stops_its_parser_and_is_an_error_of_it() -> None:
    """Uvicorn answers that error by `send_400_response`, which is ours for a head that is too large."""

    class Callbacks:
        def on_headers_complete(self) -> None:
            raise ZeroDivisionError

        def on_message_complete(self) -> None:
            raise AssertionError

    with pytest.raises(httptools.HttpParserError):
        httptools.HttpRequestParser(Callbacks()).feed_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


class TestAsyncpg:
    """`db.autocommit` runs statements on its connections, below SQLAlchemy, and tells its errors apart."""

    @pytest.mark.parametrize("method", ["fetch", "execute", "is_closed"])
    def test_a_connection_has(self, method: str) -> None:
        assert callable(getattr(asyncpg.Connection, method))

    def test_connecting_takes_what_a_database_url_says(self) -> None:
        taken = inspect.signature(asyncpg.connect).parameters
        assert {
            "ssl",
            "timeout",
            "command_timeout",
            "server_settings",
            "statement_cache_size",
            "connection_class",
            "target_session_attrs",
        } <= set(taken)

    def test_a_statement_that_is_given_up_is_cancelled_by_this_method(self) -> None:
        """`db.connections` has it end the connection; `tests/chaos/test_failover.py` shows that it does."""
        assert "waiter" in inspect.signature(asyncpg.Connection._cancel_current_command).parameters

    def test_sqlalchemy_says_which_it_speaks_through_and_wraps_its_errors(self) -> None:
        adapter: Any = dialect.dialect.import_dbapi()  # type: ignore[no-untyped-call]
        assert adapter.asyncpg is asyncpg
        assert issubclass(adapter.Error, Exception)

    def test_errors_are_of_three_kinds_and_those_of_the_server_have_a_state(self) -> None:
        assert asyncpg.PostgresError.sqlstate is None
        assert asyncpg.exceptions.UniqueViolationError.sqlstate == "23505"
        assert not issubclass(asyncpg.InternalClientError, asyncpg.PostgresError | asyncpg.InterfaceError)


class TestSQLAlchemy:
    """`db.sqlite` is a dialect of its own, on the base classes that its asynchronous dialects have."""

    def test_a_cursor_asks_for_what_ours_gives(self) -> None:
        cursor = AsyncAdapt_dbapi_cursor
        assert {"_rows", "_cursor", "_adapt_connection"} <= set(cursor.__slots__)
        assert list(inspect.signature(cursor._aenter_cursor).parameters) == ["self", "cursor"]
        assert list(inspect.signature(cursor.execute).parameters) == ["self", "operation", "parameters"]
        assert cursor._awaitable_cursor_close
        assert "_awaitable_cursor_close" in inspect.getsource(cursor._async_soft_close)

    def test_a_connection_is_begun_by_its_dialect(self) -> None:
        assert "dispatch.begin" in (begin := inspect.getsource(Connection._begin_impl))
        assert begin.index("dispatch.begin") < begin.index("dialect.do_begin")
        assert list(inspect.signature(SQLiteDialect_pysqlite.do_begin).parameters) == [
            "self",
            "dbapi_connection",
        ]
