"""The playground: the page at `/`, its files, and its session."""

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import MediaType, Request, Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncSession

from chatapi.auth.tokens import TokenVerifier
from chatapi.conversations.schemas import Conversation
from chatapi.conversations.service import ConversationService
from chatapi.db.database import Database
from chatapi.db.paging import Page
from chatapi.db.schema import Schema
from chatapi.errors.base import AppError
from chatapi.errors.requests import NotFound
from chatapi.files.ranges import is_fresh
from chatapi.playground.built import assets, etag, page
from chatapi.playground.sign_in import came_directly
from chatapi.routing import UncopiedRouter
from chatapi.settings import LOCAL_USER, Settings

TOKEN_LASTS = timedelta(hours=1)
LISTED = 30  # conversations, as many as the page asks for
A_YEAR = 31_536_000
# Scripts and styles only from our own files, nothing in the page's text; pictures are files that the page has fetched.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Opening(Struct, frozen=True, kw_only=True):
    """What the page learns when it is opened: a token if it is signed in by itself, and otherwise who issues tokens.

    The user's first conversations come with the token, because the page would ask for them next; null if they cannot be read.
    """

    user_id: str | None = None
    token: str | None = None
    expires_at: datetime | None = None
    conversations: Page[Conversation] | None = None
    issuer: str | None = None


def playground_routes(
    settings: Settings, verifier: TokenVerifier, database: Database, schema: Schema
) -> list[ControllerRouterHandler]:
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

    @post("/session", include_in_schema=False, status_code=200)
    async def session(request: Request[Any, Any, Any]) -> Opening:
        """Signs in by itself with the embedded default, and nowhere else."""
        if not (settings.embedded and came_directly(request)):
            return Opening(issuer=next(iter(settings.issuer_addresses), None))
        return Opening(
            user_id=LOCAL_USER,
            token=verifier.mint(LOCAL_USER, TOKEN_LASTS),
            expires_at=datetime.now(UTC) + TOKEN_LASTS,
            conversations=await first_conversations(database, schema),
        )

    return [show, UncopiedRouter("/playground", route_handlers=[asset, session])]


async def first_conversations(database: Database, schema: Schema) -> Page[Conversation] | None:
    """As the page lists them, without those of OpenAI's API; None while the database cannot be read."""

    async def read(session: AsyncSession) -> Page[Conversation]:
        conversations = ConversationService(session=session)
        return await conversations.page(LOCAL_USER, limit=LISTED, cursor=None, source="app")

    try:
        await schema.ensure_current()
        return await database.read(LOCAL_USER, read)
    except AppError:
        return None  # the page asks for them, and tells what is the matter
