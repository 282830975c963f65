"""TLS to the database, as libpq's parameters ask for it (https://www.postgresql.org/docs/current/libpq-ssl.html)."""

import ssl
from typing import Any

from chatapi.settings import SettingsError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def tls(query: dict[str, Any]) -> str | ssl.SSLContext | None:
    """The `ssl` argument of asyncpg for `sslmode` and `sslrootcert`, which are taken out of the query."""
    mode: str | None = query.pop("sslmode", query.pop("ssl", None))
    authorities = query.pop("sslrootcert", None)
    if mode is not None and mode not in SSL_MODES:
        raise SettingsError(f"DATABASE_URL: sslmode is one of {', '.join(SSL_MODES)}")
    if authorities is None and mode not in {"verify-ca", "verify-full"}:
        return mode
    if mode not in {"require", "verify-ca", "verify-full"}:
        raise SettingsError("DATABASE_URL: sslrootcert needs sslmode=require, verify-ca or verify-full")
    try:
        context = ssl.create_default_context(cafile=None if authorities == "system" else authorities)
    except OSError as error:
        raise SettingsError(f"DATABASE_URL: sslrootcert cannot be read: {error.strerror}") from None
    # With `sslrootcert`, require means verify-ca, as for libpq.
    context.check_hostname = mode == "verify-full"
    return context
