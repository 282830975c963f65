"""The OpenAPI document and Swagger UI, which works without internet access."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from litestar import Litestar, Request
from litestar.datastructures import CacheControlHeader
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    SecurityScheme,
)
from litestar.router import Router
from litestar.routes import HTTPRoute
from litestar.static_files import create_static_files_router

from chatapi import __version__
from chatapi.openapi import OPENAI_TAG, header

SWAGGER_UI = Path(__file__).parent / "static" / "swagger-ui"
OUR_OWN = Path(__file__).parent / "static" / "docs"
ASSETS = "/docs/assets"
ASSET_SECONDS = 3_600  # long enough to be loaded once a session, short enough for a new version to arrive

# The page itself has no script, so its Content-Security-Policy allows none (see web/browsers.py).
PAGE = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>chatapi</title>
  <link rel="icon" type="image/png" href="{ASSETS}/favicon-32x32.png">
  <link rel="stylesheet" href="{ASSETS}/swagger-ui.css">
  <link rel="stylesheet" href="{ASSETS}/docs.css">
  <script src="{ASSETS}/swagger-ui-bundle.js" defer></script>
  <script src="{ASSETS}/swagger-ui-standalone-preset.js" defer></script>
  <script src="{ASSETS}/docs.js" defer></script>
</head>
<body>
  <div id="swagger-ui" data-document="/docs/openapi.json"></div>
</body>
</html>
"""

DESCRIPTION = """\
The back end of a chat: conversations that are remembered, an assistant with tools, tasks.

Get a token from your Better Auth server (or, in development, from `chatapi token USER_ID`), press **Authorize**, and
send a message.
"""


HEADERS = {
    "X-Request-ID": header("The request's id: the caller's, if it is sane.", always=True),
    "WWW-Authenticate": header("Bearer, with an error code if there was a token (RFC 6750).", always=True),
    "RateLimit": header(
        'What is left, and for how many seconds: `"default";r=599;t=60`. Not there when limits are off.'
    ),
    "RateLimit-Policy": header('The limit: `"default";q=600;w=60`. Not there when limits are off.'),
    "x-ratelimit-limit-requests": header("The limit, as OpenAI's API tells it."),
    "x-ratelimit-remaining-requests": header("What is left of the limit."),
    "x-ratelimit-reset-requests": header("When more is allowed: `60s`."),
    "x-should-retry": header("`false`: OpenAI's SDKs do not send the request again."),
    "Idempotent-Replayed": header("`true` if the `Idempotency-Key` has had this answer before."),
    "Retry-After": header("Seconds after which it is worth another try.", type_=OpenAPIType.INTEGER),
}

OPENAI_LIMITS = [name for name in HEADERS if name.startswith("x-ratelimit-")]


class SwaggerUI(OpenAPIRenderPlugin):
    """Swagger UI from local files. Litestar's own plugin writes a script and the whole document into the page."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002 - Litestar's
        return PAGE.encode()


class Document(OpenAPI):
    """The OpenAPI document, which says more of the truth than Litestar does by itself."""

    app: Litestar

    def to_schema(self) -> dict[str, Any]:
        mend(self, self.app)
        return super().to_schema()


@dataclass(kw_only=True)
class DocumentConfig(OpenAPIConfig):
    """The document is made when it is first asked for: that takes a tenth of a start, and few ask."""

    app: Callable[[], Litestar]

    def to_openapi_schema(self) -> Document:
        made = super().to_openapi_schema()
        document = Document(**{field.name: getattr(made, field.name) for field in fields(made)})
        document.app = self.app()
        return document


def openapi_config(app: Callable[[], Litestar]) -> DocumentConfig:
    return DocumentConfig(
        app=app,
        title="chatapi",
        version=__version__,
        description=DESCRIPTION,
        path="/docs",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    bearer_format="JWT",
                    description="A JWT of the sign-in service, or an API key (`ck_…`), which a few routes refuse.",
                )
            }
        ),
        render_plugins=[
            SwaggerUI(path="/"),
            JsonRenderPlugin(path="/openapi.json"),
        ],
    )


def swagger_assets() -> Router:
    return create_static_files_router(
        path=ASSETS,
        directories=[SWAGGER_UI, OUR_OWN],
        cache_control=CacheControlHeader(max_age=ASSET_SECONDS, public=True),
        include_in_schema=False,
    )


def mend(document: OpenAPI, app: Litestar) -> None:
    """Correct Litestar's document: there is no 400 (ours is 422) but below `/v1`, responses have headers, and bodies are closed."""
    close_bodies(document, app)
    for path in (document.paths or {}).values():
        for operation in (path.get, path.post, path.put, path.patch, path.delete):
            if operation is None or operation.responses is None:
                continue
            is_openai = OPENAI_TAG in (operation.tags or ())
            if not is_openai:
                operation.responses.pop("400", None)
            for status, response in operation.responses.items():
                if isinstance(response, OpenAPIResponse):
                    behind_token = "429" in operation.responses
                    headers = headers_of(
                        status, limited=behind_token, takes_key=takes_key(operation), is_openai=is_openai
                    )
                    response.headers = (response.headers or {}) | headers


def close_bodies(document: OpenAPI, app: Litestar) -> None:
    """Say in the schema of a body that it forbids unknown fields, if its struct does."""
    schemas = document.components.schemas or {} if document.components else {}
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            body = handler.parsed_data_field
            schema = schemas.get(getattr(body and body.annotation, "__name__", ""))
            if schema is not None and body and body.annotation.__struct_config__.forbid_unknown_fields:
                schema.additional_properties = False


def takes_key(operation: Operation) -> bool:
    named = (each for each in operation.parameters or () if isinstance(each, Parameter))
    return any(each.name == "Idempotency-Key" for each in named)


def headers_of(
    status: str, *, limited: bool, takes_key: bool, is_openai: bool
) -> dict[str, OpenAPIHeader | Reference]:
    """The headers of a response with this status, from an operation with a rate limit or an `Idempotency-Key` or without."""
    names = ["X-Request-ID"]
    if status == "401":
        names.append("WWW-Authenticate")
    elif limited:
        names += ["RateLimit", "RateLimit-Policy", *(OPENAI_LIMITS if is_openai else ())]
    if takes_key and status < "300":
        names.append("Idempotent-Replayed")
    if status in {"409", "429", "503"}:
        names.append("Retry-After")
    if is_openai and (status in {"409", "429"} or status >= "500"):
        names.append("x-should-retry")
    return {name: HEADERS[name] for name in names}
