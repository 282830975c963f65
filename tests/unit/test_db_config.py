"""Database URLs as they are pasted."""

import ssl

import pytest

from chatapi.db.url import engine_url
from chatapi.patience import Patience
from chatapi.settings import SettingsError


class TestEngineURL:
    def test_as_neon_gives_it(self) -> None:
        url, arguments = engine_url(
            "postgresql://chat:p%40ss@ep-cool-123.eu-central-1.aws.neon.tech/chat?sslmode=require&channel_binding=require",
            Patience(),
        )
        assert url.render_as_string(hide_password=False) == (
            "postgresql+asyncpg://chat:p%40ss@ep-cool-123.eu-central-1.aws.neon.tech/chat"
        )
        assert arguments["ssl"] == "require"
        assert "statement_cache_size" not in arguments

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://u@ep-cool-123-pooler.eu.aws.neon.tech/chat",
            "postgresql://u@pooler.example/chat?pgbouncer=true",
        ],
    )
    def test_behind_a_pooler_keeps_nothing_prepared(self, url: str) -> None:
        _, arguments = engine_url(url, Patience())
        assert (arguments["statement_cache_size"], arguments["prepared_statement_cache_size"]) == (0, 0)

    @pytest.mark.parametrize(
        ("query", "checks_host"),
        [
            ("sslmode=verify-full", True),
            ("sslmode=verify-full&sslrootcert=system", True),
            ("sslmode=verify-ca", False),
            ("sslmode=require&sslrootcert=system", False),
            ("ssl=verify-full", True),
        ],
    )
    def test_a_certificate_is_checked_where_libpq_would(self, query: str, *, checks_host: bool) -> None:
        _, arguments = engine_url(f"postgresql://u@h/d?{query}", Patience())
        assert arguments["ssl"].verify_mode is ssl.CERT_REQUIRED
        assert arguments["ssl"].check_hostname is checks_host

    def test_start_up_parameters_of_libpq_become_server_settings(self) -> None:
        _, arguments = engine_url(
            "postgres://u@h/d?application_name=mine&options=endpoint%3Dep-1", Patience()
        )
        assert arguments["server_settings"] == {"application_name": "mine", "options": "endpoint=ep-1"}

    @pytest.mark.parametrize(
        ("url", "addresses"),
        [
            ("postgresql://u:p@a:1,b:2/d?target_session_attrs=read-write", "a:1 b:2"),
            ("postgresql://u:p@a,b:2/d?target_session_attrs=primary", "a:5432 b:2"),
            ("postgres://u:p/,@a,b", "a:5432 b:5432"),
            ("postgresql://u@[::1]:1,[::2]/d?sslmode=require", "[::1]:1 [::2]:5432"),
            ("postgresql://u@/d?host=a,b&port=1,2", "a:1 b:2"),
            ("postgresql://u@/d?host=a,b&port=1", "a:1 b:1"),
            ("postgresql://u@/d?host=a:1&host=b", "a:1 b:5432"),
            ("postgresql://u@a:1/d?target_session_attrs=read-write", "a:1"),
            ("postgresql://u@a:1/d?target_session_attrs=any", ""),
            ("postgresql://u@a:1/d", ""),
        ],
    )
    def test_one_of_several_hosts_must_take_writes(self, url: str, addresses: str) -> None:
        made, arguments = engine_url(url, Patience())
        hosts = arguments.get("async_creator_fn")
        assert [str(address) for address in hosts.addresses] == addresses.split() if hosts else not addresses
        assert made.query == {}

    def test_behind_a_pooler_that_knows_prepared_statements_they_are_kept(self) -> None:
        _, arguments = engine_url(
            "postgresql://u@ep-1-pooler.eu.aws.neon.tech/chat?pgbouncer=false", Patience()
        )
        assert "statement_cache_size" not in arguments

    def test_a_pooler_is_known_among_several_hosts(self) -> None:
        _, arguments = engine_url("postgresql://u@a-pooler.x,b-pooler.x/d", Patience())
        assert arguments["statement_cache_size"] == 0

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "milk",
            "postgresql://h/d?pgbouncer=yes",
            "postgresql://h:x/d",
            "postgresql://h:x,i/d",
            "postgresql://h:65536,i/d",
            "postgresql://h,/d",
            "postgresql://h,i/d?port=1,2,3",
            "postgresql://h,i/d?target_session_attrs=any",
            "postgresql://h,i/d?target_session_attrs=prefer-standby",
            "postgresql://h/d?target_session_attrs=standby",
            "postgresql://h/d?target_session_attrs=writer",
            "mysql://h/d",
            "postgresql+psycopg://h/d",
            "postgresql://h/d?sslcert=x",
            "postgresql://h/d?sslmode=requires",
            "postgresql://h/d?sslrootcert=system",
            "postgresql://h/d?sslmode=prefer&sslrootcert=system",
            "postgresql://h/d?sslmode=verify-full&sslrootcert=/no/such/file",
            "sqlite://",
            "sqlite:///:memory:",
        ],
    )
    def test_what_cannot_be_used_is_refused_by_name(self, url: str) -> None:
        with pytest.raises(SettingsError, match=r"^DATABASE_URL: "):
            engine_url(url, Patience())

    def test_sqlite_goes_through_our_own_dialect(self) -> None:
        url, arguments = engine_url("sqlite:///some/where.db", Patience())
        assert (url.drivername, url.database, arguments) == ("sqlite+chatapi", "some/where.db", {})
