"""What becomes of each parameter of OpenAI's API: the tables in docs/openai.md.

.venv/bin/python -m website.parameters
"""

import json
from collections.abc import Iterator

from chatapi.openai_api.chat_body import ChatBody
from chatapi.openai_api.conversations import ConversationBody, ItemsBody, NewConversationBody
from chatapi.openai_api.parameters import Body, Parameter
from chatapi.openai_api.response_body import ResponseBody
from website.modules import REPOSITORY

DOCUMENT = REPOSITORY / "docs/openai.md"
# Each body by its route, which stands in the first cell of its table's head.
BODIES: dict[str, type[Body]] = {
    "POST /v1/chat/completions": ChatBody,
    "POST /v1/responses": ResponseBody,
    "POST /v1/conversations": NewConversationBody,
    "POST /v1/conversations/{id}": ConversationBody,
    "POST /v1/conversations/{id}/items": ItemsBody,
}


def head(route: str) -> str:
    return f"| `{route}` | here | |\n|---|---|---|\n"


def rows(body: type[Body]) -> Iterator[str]:
    for name, parameter in body.parameters.items():
        yield f"| `{name}` | {support_of(parameter)} | {parameter.note} |\n"


def support_of(parameter: Parameter) -> str:
    held = ", ".join(f"`{json.dumps(value)}`" for value in parameter.holds)
    return f"{parameter.support}, except {held}" if held else parameter.support


def document() -> str:
    """The document as it ought to be; raises `ValueError` if it has no table for a route."""
    text = DOCUMENT.read_text()
    for route, body in BODIES.items():
        before, found, after = text.partition(head(route))
        if not found:
            raise ValueError(f"docs/openai.md needs a table that begins with: {head(route)}")
        *_, rest = after.partition("\n\n")
        text = before + found + "".join(rows(body)) + "\n" + rest
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(document())
