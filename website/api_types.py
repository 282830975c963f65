"""The types of our own REST API in packages/ai-sdk, made from the OpenAPI document. Needs Node and `npm ci` in that folder.

.venv/bin/python -m website.api_types
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from chatapi.app import create_app
from chatapi.openai_api.errors import PREFIX
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
    document.write_text(json.dumps(our_own(create_app(settings).openapi_schema.to_schema())))
    made = subprocess.run(
        [GENERATOR, document, "--alphabetize"], capture_output=True, text=True, check=True, cwd=PACKAGE
    )
    return made.stdout


def our_own(document: dict[str, Any]) -> dict[str, Any]:
    """The document without OpenAI's API, whose types its own clients have, and without schemas that are for it alone."""
    paths = {path: item for path, item in document["paths"].items() if not path.startswith(f"{PREFIX}/")}
    schemas = document["components"]["schemas"]
    named: dict[str, Any] = {}
    left = [paths]
    while left:
        found = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(left.pop()))) - named.keys()
        named |= {name: schemas[name] for name in found}
        left += [schemas[name] for name in found]
    components = {
        **document["components"],
        "schemas": {name: schemas[name] for name in schemas if name in named},
    }
    return {**document, "paths": paths, "components": components}


if __name__ == "__main__":
    document = REPOSITORY / "build/openapi.json"
    document.parent.mkdir(exist_ok=True)
    TYPES.write_text(types(document))
