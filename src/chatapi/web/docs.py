"""The OpenAPI document and Swagger UI, which works without internet access."""

from pathlib import Path

from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.router import Router
from litestar.static_files import create_static_files_router

from chatapi import __version__

SWAGGER_UI = Path(__file__).parent / "static" / "swagger-ui"
ASSETS = "/docs/assets"

DESCRIPTION = """\
The back end of a chat: conversations that are remembered, an assistant with tools, tasks.

Get a token from your Better Auth server (or, in development, from `chatapi token USER_ID`), press **Authorize**, and
send a message.
"""


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="chatapi",
        version=__version__,
        description=DESCRIPTION,
        path="/docs",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
        ),
        render_plugins=[
            SwaggerRenderPlugin(
                path="/",
                js_url=f"{ASSETS}/swagger-ui-bundle.js",
                css_url=f"{ASSETS}/swagger-ui.css",
                standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
                favicon=f"<link rel='icon' type='image/png' href='{ASSETS}/favicon-32x32.png'>",
            ),
            JsonRenderPlugin(path="/openapi.json"),
        ],
    )


def swagger_assets() -> Router:
    return create_static_files_router(path=ASSETS, directories=[SWAGGER_UI], include_in_schema=False)


def tell_the_truth(app: Litestar) -> None:
    """Take out the 400 that Litestar documents for each input: ours is 422."""
    for path in (app.openapi_schema.paths or {}).values():
        for operation in (path.get, path.post, path.put, path.patch, path.delete):
            if operation is not None and operation.responses is not None:
                operation.responses.pop("400", None)
