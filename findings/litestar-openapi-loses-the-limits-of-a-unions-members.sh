#!/usr/bin/env bash
# Litestar's OpenAPI document leaves out the constraints of a union's members, which the service then enforces.
#
# Seen 2026-11-29: litestar 2.25.0, msgspec 0.22.0, Python 3.11.
# `int | Annotated[str, Meta(pattern=…)]` in a msgspec Struct is described as integer or any string; msgspec refuses what the
# pattern does not match. With `| None` in the place of `int` the pattern is there. A client or a test that goes by the document sends
# what is refused. `Meta(extra_json_schema={"extra": {"pattern": …}})` around the whole union says it.
# One would think that what is described alone is described in a union, too.
# Here: `ConversationId` in src/chatapi/turns/schemas.py.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check litestar==2.25.0 msgspec==0.22.0
cat >seen.py <<'PY'
import json
from typing import Annotated

import msgspec
from litestar import Litestar, post
from msgspec import Meta, Struct

Digits = Annotated[str, Meta(pattern="^[0-9]+$")]


class Body(Struct):
    alone: Digits = "1"
    optional: Digits | None = None
    union: int | Digits = 1


@post("/")
async def take(data: Body) -> None: ...


schema = Litestar([take]).openapi_schema.to_schema()["components"]["schemas"]["Body"]["properties"]
for name in Body.__struct_fields__:
    said = "with" if "pattern" in json.dumps(schema[name]) else "without"
    try:
        msgspec.convert({name: "x"}, Body)
        done = "taken"
    except msgspec.ValidationError:
        done = "refused"
    print(f'{name}: described {said} its pattern, "x" is {done}')
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
alone: described with its pattern, "x" is refused
optional: described with its pattern, "x" is refused
union: described without its pattern, "x" is refused
SEEN
