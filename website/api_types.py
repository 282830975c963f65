"""The types of the REST API in packages/ai-sdk, made from the OpenAPI document. Needs Node and `npm ci` in that folder.

.venv/bin/python -m website.api_types
"""

import json
import subprocess
from pathlib import Path

from chatapi.app import create_app
from chatapi.settings import Settings

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "packages/ai-sdk"
TYPES = PACKAGE / "src/api.ts"
GENERATOR = PACKAGE / "node_modules/.bin/openapi-typescript"


def types(document: Path) -> str:
    """The types as they ought to be. The OpenAPI document is written to that file."""
    settings = Settings(
        database_url="postgresql://localhost/unused", better_auth_secret="x" * 32, log_level="ERROR"
    )
    document.write_text(json.dumps(create_app(settings).openapi_schema.to_schema()))
    made = subprocess.run(
        [GENERATOR, document, "--alphabetize"], capture_output=True, text=True, check=True, cwd=PACKAGE
    )
    return made.stdout


if __name__ == "__main__":
    document = REPOSITORY / "build/openapi.json"
    document.parent.mkdir(exist_ok=True)
    TYPES.write_text(types(document))
