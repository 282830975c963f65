"""The playground: the page at `/`, its files, and its session."""

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import MediaType, Request, Response, Router, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from chatapi.auth.tokens import TokenVerifier
from chatapi.errors.requests import NotFound
from chatapi.files.ranges import is_fresh
from chatapi.playground.built import assets, etag, page
from chatapi.playground.sign_in import came_directly
from chatapi.settings import LOCAL_USER, Settings

TOKEN_LASTS = timedelta(hours=1)
A_YEAR = 31_536_000
# Scripts and styles only from our own files, nothing in the page's text; pictures are files that the page has fetched.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Opening(Struct, frozen=True, kw_only=True):
    """What a page learns that is opened: a token and its user if it is signed in by itself, or who issues tokens."""

    user_id: str | None
    token: str | None
    expires_at: datetime | None
    issuer: str | None


def playground_routes(settings: Settings, verifier: TokenVerifier) -> list[ControllerRouterHandler]:
    @get("/", include_in_schema=False, sync_to_thread=False)
    def show(request: Request[Any, Any, Any]) -> Response[bytes]:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": etag()}
        if is_fresh(request.headers, etag()):
            return Response(b"", status_code=304, media_type=MediaType.HTML, headers=headers)
        return Response(page(), media_type=MediaType.HTML, headers=headers)

    @get("/assets/{name:str}", include_in_schema=False, sync_to_thread=False)
    def asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        found = assets().get(name)
        if found is None:
            raise NotFound("Nothing is served at this path.")
        compressed = "gzip" in request.headers.get("accept-encoding", "")
        return Response(
            found.compressed if compressed else found.plain,
            media_type=found.media_type,
            headers={
                "Cache-Control": f"public, max-age={A_YEAR}, immutable",
                "Vary": "Accept-Encoding",
                **({"Content-Encoding": "gzip"} if compressed else {}),
            },
        )

    @post("/session", include_in_schema=False, status_code=200, sync_to_thread=False)
    def session(request: Request[Any, Any, Any]) -> Opening:
        """Signs in by itself with the embedded default, and nowhere else."""
        signs_in = settings.embedded and came_directly(request)
        return Opening(
            user_id=LOCAL_USER if signs_in else None,
            token=verifier.mint(LOCAL_USER, TOKEN_LASTS) if signs_in else None,
            expires_at=datetime.now(UTC) + TOKEN_LASTS if signs_in else None,
            issuer=next(iter(settings.issuer_addresses), None),
        )

    return [show, Router("/playground", route_handlers=[asset, session])]
