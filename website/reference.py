"""The reference: the OpenAPI document as a page."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from chatapi.app import create_app
from chatapi.settings import Settings

METHODS = ("get", "post", "put", "patch", "delete")
INTRODUCTION = """# Reference

Every route, as the service itself describes it at `/docs/openapi.json`; this page is made from that. What it all means:
[The API](api.md).
"""


def reference() -> str:
    settings = Settings(
        database_url="postgresql://localhost/unused", better_auth_secret="no secret, only long enough!"
    )
    document = create_app(settings).openapi_schema.to_schema()
    operations = [
        (method, path, described[method])
        for path, described in document["paths"].items()
        for method in METHODS
        if method in described
    ]
    tags = dict.fromkeys(tag for *_, operation in operations for tag in operation.get("tags", ["Other"]))
    lines = [INTRODUCTION]
    for tag in tags:
        lines.append(f"## {tag}\n")
        for method, path, operation in operations:
            if tag in operation.get("tags", ["Other"]):
                lines += operation_lines(method, path, operation)
    lines.append("## Shapes\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += schema_lines(name, schema)
    return "\n".join(lines) + "\n"


def operation_lines(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### {method.upper()} {path}\n"
    yield f"{operation.get('summary', '')}\n"
    if "description" in operation:
        yield f"{operation['description']}\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for each in parameters:
            needed = "required" if each.get("required") else ""
            yield row(
                f"`{each['name']}`",
                each["in"],
                type_of(each.get("schema", {})),
                each.get("description") or needed,
            )
        yield ""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body: {type_of(content.get('schema', {}))} as `{media_type}`\n"
    yield "| status | | body |\n|---|---|---|"
    for status, response in operation["responses"].items():
        bodies = [type_of(content.get("schema", {})) for content in response.get("content", {}).values()]
        yield row(
            f"{status} {phrase(status)}", response.get("description", ""), ", ".join(dict.fromkeys(bodies))
        )
    yield ""


def schema_lines(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {plain(name)}\n"
    if "description" in schema:
        yield f"{schema['description']}\n"
    if properties := schema.get("properties"):
        yield "| member | type | |\n|---|---|---|"
        for member, each in properties.items():
            needed = "" if member in schema.get("required", ()) else "may be left out"
            yield row(f"`{member}`", type_of(each), each.get("description") or needed)
    else:
        yield type_of(schema)
    yield ""


def type_of(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in schema:
        name = plain(schema["$ref"].rsplit("/", 1)[1])
        return f"[{name}](#{name.lower().replace(' ', '-')})"
    for choice in ("oneOf", "anyOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(type_of(each) for each in schema[choice]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    kinds = schema.get("type", "anything")
    kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    bounds = [
        f"{name} {schema[name]}"
        for name in ("minLength", "maxLength", "minimum", "maximum")
        if name in schema
    ]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def plain(name: str) -> str:
    """A generic's name is made of its module's: Page_chatapi.tasks.schemas.Task_ is a page of Task."""
    return re.sub(r"^(\w+?)_[\w.]+\.(\w+)_$", r"\1 of \2", name)


def row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase
