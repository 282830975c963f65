"""The headers for browsers: which sites may read answers (CORS), and what our own pages may do.

The reasons for each header are in docs/security.md.
"""

from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from chatapi.settings import Settings

EXPOSED = [
    *("X-Request-ID", "Idempotent-Replayed", "Retry-After", "RateLimit", "RateLimit-Policy", "Location"),
    *("Content-Disposition", "Content-Range", "ETag"),
    # What OpenAI's SDKs read.
    *(
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-should-retry",
        "X-Conversation-Id",
    ),
]

# Bytes, as ASGI wants them, because every response gets them.
EVERYWHERE = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
# JSON is not a page. If a browser takes it for one, it may do nothing.
NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"
# Our pages have no script in their text, and load from this host only. Swagger UI draws with style attributes.
PAGE = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def cors_config(settings: Settings) -> CORSConfig | None:
    """None without CORS_ORIGINS: then no other site may read anything.

    Credentials are never allowed. We know a caller by the Authorization header, which no browser sends by itself, so an
    allowed site can do nothing without a token. There is no cookie to allow.
    """
    if not settings.origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],  # safe, because browsers send no credentials
        expose_headers=EXPOSED,
    )


async def protect(message: Message, scope: Scope) -> None:
    """Add these headers to a response, except those that its handler has set. A before-send hook."""
    if message["type"] != "http.response.start":
        return
    settings: Settings = scope["litestar_app"].state.settings
    said = dict(message["headers"])
    is_page = said.get(b"content-type", b"").startswith(b"text/html")
    headers = {**EVERYWHERE, b"content-security-policy": PAGE if is_page else NO_PAGE}
    if settings.hsts_max_age and scope.get("scheme") == "https":
        headers[b"strict-transport-security"] = b"max-age=%d" % settings.hsts_max_age
    message["headers"] = [
        *message["headers"],
        *((name, value) for name, value in headers.items() if name not in said),
    ]
    if settings.origins:
        MutableScopeHeaders(message)["Vary"] = "Origin"
