"""The JSON Schemas of tools' arguments, in the form that models and MCP clients get.

Model servers turn these schemas into grammars (llama.cpp for `tool_choice: auto`, too), and chat templates print them
by each value's `type`. A program that cannot read a schema refuses every message, so the offered schemas have few
keywords: `type` everywhere, `properties`, `required`, `additionalProperties`, `items`, `enum`, `minimum`, `maximum`,
`description` and `default`. References are resolved, a union becomes the kind that its author names first, and null
does not occur: a value that may be null may be left out. The tool checks a call's arguments by the original schema.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from msgspec import Struct

Schema = dict[str, Any]

# Subschemas with references resolved: a few that refer to each other may expand to millions.
MAX_NODES = 5_000
# Nested members, choices and references; models and their servers give up earlier.
MAX_DEPTH = 32
MAX_UNSAID = 500  # characters: providers bound a tool's description, at 1,024 the strictest
EXACT = 2**53  # beyond it, JSON's numbers are not exact everywhere

KINDS = ("object", "array", "string", "integer", "number", "boolean")
PYTHON_KINDS: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
# The keywords that reveal the kind of a schema without a type.
TELLING = {
    "properties": "object",
    "additionalProperties": "object",
    "patternProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "pattern": "string",
    "minLength": "string",
    "maxLength": "string",
    "format": "string",
    "minimum": "number",
    "maximum": "number",
    "multipleOf": "number",
}
# Dropped keywords, in words. Keywords that are not here restrict nothing, such as `title` and `examples`.
WORDS: dict[str, str] = {
    "pattern": "matches {}",
    "minLength": "has {} characters at least",
    "maxLength": "has {} characters at most",
    "format": "is a {}",
    "minItems": "has {} items at least",
    "maxItems": "has {} items at most",
    "minProperties": "has {} members at least",
    "maxProperties": "has {} members at most",
    "minimum": "is {} at least",
    "maximum": "is {} at most",
    "exclusiveMinimum": "is over {}",
    "exclusiveMaximum": "is under {}",
    "multipleOf": "is a multiple of {}",
}
RULES = (
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "patternProperties",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
)
NUMBER_FORMATS = {"double", "float", "int32", "int64"}  # OpenAPI's; they mean nothing to a model


class Offer(NamedTuple):
    """`unsaid` lists rules that the schema lacks, in words; `nulls` are members to send as null if left out."""

    schema: Schema
    unsaid: Sequence[str]
    nulls: Sequence[str]

    def describe(self, description: str) -> str:
        """The tool's description, followed by the rules that its schema lacks."""
        if not self.unsaid:
            return description
        unsaid = "; ".join(self.unsaid)
        if len(unsaid) > MAX_UNSAID:
            unsaid = unsaid[:MAX_UNSAID] + " …"
        return f"{description}\n\nNot in the schema, but checked: {unsaid}."


def offer(schema: Schema) -> Offer:
    """The offer for a JSON Schema of an object. The schema is untrusted and may hold anything."""
    reader = Reader(schema)
    made = reader.read(schema, Place())
    if made["type"] != "object":
        made = {"type": "object"}
    made = {"type": "object", "properties": {}, "required": [], **made}
    nulls = [name for name in made["required"] if name in reader.nullable]
    made["required"] = [name for name in made["required"] if name not in nulls]
    return Offer(made, list(reader.unsaid), nulls)


class Place(Struct, frozen=True):
    """The place in the arguments that a schema describes; `references` are those that led here."""

    path: str = ""
    depth: int = 0
    references: frozenset[str] = frozenset()

    def inside(self, name: str) -> "Place":
        path = f"{self.path}.{name}" if self.path and name != "[]" else f"{self.path}{name}"
        return Place(path, self.depth + 1, self.references)

    def deeper(self, reference: str | None = None) -> "Place":
        references = self.references if reference is None else self.references | {reference}
        return Place(self.path, self.depth + 1, references)


class Reader:
    """Reads one schema, with its definitions."""

    def __init__(self, root: Schema) -> None:
        self.unsaid: dict[str, None] = {}  # an ordered set
        self.nullable: set[str] = set()  # paths of values that may be null
        self._root = root
        self._nodes = 0

    def read(self, schema: Any, place: Place) -> Schema:
        branches = list(self._branches(schema, place))
        plain = [self._plain(*each) for each in branches if each[0].get("type") != "null"]
        if len(plain) < len(branches):
            self.nullable.add(place.path)
        return self._united(plain, place)

    def _branches(self, schema: Any, place: Place) -> Iterator[tuple[Schema, Place]]:
        """The alternatives of a schema: each has one kind, and includes the rules common to all."""
        schema, place = self._resolved(schema, place)
        for keyword in ("anyOf", "oneOf"):
            if isinstance(choices := schema.get(keyword), list) and choices:
                rest = {name: value for name, value in schema.items() if name != keyword}
                for choice in choices:
                    if choice is not False:
                        yield from self._branches({"allOf": [rest, choice]}, place.deeper())
                return
        for part in split(schema):
            yield part, place

    def _resolved(self, schema: Any, place: Place) -> tuple[Schema, Place]:
        """The schema with its `$ref` and `allOf` merged into it."""
        self._nodes += 1
        if self._nodes > MAX_NODES or place.depth > MAX_DEPTH:
            self._say(place, "has more to it than can be told")
            return {}, place
        if not isinstance(schema, dict):  # `true` admits any value
            return {}, place
        parts = schema.get("allOf")
        parts = list(parts) if isinstance(parts, list) else []
        if isinstance(reference := schema.get("$ref"), str):
            target = self._target(reference)
            if target is None or reference in place.references:
                self._say(place, "has more to it than can be told")
                parts.append({"type": kind_of(target)} if isinstance(target, dict) else {})
            else:
                place = place.deeper(reference)
                parts.append(target)
        result = {name: value for name, value in schema.items() if name not in {"$ref", "allOf"}}
        for part in parts:
            other, place = self._resolved(part, place.deeper())
            if any(name in result and name in other for name in ("anyOf", "oneOf")):
                self._say(place, "has other rules (anyOf)")
            result = both(result, other)
        return result, place

    def _target(self, reference: str) -> Any:
        """The target of a reference inside the document; other references are not followed."""
        if not reference.startswith("#"):
            return None
        found: Any = self._root
        for step in reference[1:].split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                return None
        return found

    def _plain(self, schema: Schema, place: Place) -> Schema:
        """The offered form of a schema of one kind."""
        kind = kind_of(schema)
        made: Schema = {"type": kind or "string"}
        if kind is None:
            self._say(place, "may be any JSON value")
        if isinstance(description := schema.get("description"), str):
            made["description"] = description
        if isinstance(values := schema.get("enum"), list) and kind in {"string", "integer", "number"}:
            made["enum"] = list(dict.fromkeys(values))
        if "default" in schema and admits(made["type"], kind_of_value(schema["default"])):
            made["default"] = schema["default"]
        if kind == "object":
            made |= self._members(schema, place)
        elif kind == "array":
            made["items"] = self._items(schema, place)
        elif kind in {"integer", "number"}:
            made |= {name: schema[name] for name in ("minimum", "maximum") if is_exact(schema.get(name))}
        self._say_rest(schema, made, place)
        return made

    def _members(self, schema: Schema, place: Place) -> Schema:
        members = schema.get("properties")
        members = members if isinstance(members, dict) else {}
        wanted = schema.get("required")
        wanted = wanted if isinstance(wanted, list) else []
        made: Schema = {}
        if members:
            made["properties"] = {
                name: self.read(member, place.inside(name))
                for name, member in members.items()
                if member is not False
            }
            made["required"] = [name for name in made["properties"] if name in wanted]
        others = schema.get("additionalProperties")
        if isinstance(others, dict) and others:
            made["additionalProperties"] = self.read(others, place.inside("*"))
        elif isinstance(others, bool) and members:
            made["additionalProperties"] = others
        return made

    def _items(self, schema: Schema, place: Place) -> Schema:
        """The schema of an array's items; a tuple becomes a union without its length."""
        found = schema.get("prefixItems", schema.get("items"))
        if isinstance(found, list):
            self._say(place, "is a list of so many values, each of its kind")
            found = {"anyOf": found} if found else {}
        return self.read(found, place.inside("[]"))

    def _united(self, schemas: Sequence[Schema], place: Place) -> Schema:
        """One schema for all of them, of the first one's kind."""
        if not schemas:
            return {"type": "string"}
        kinds = list(dict.fromkeys(each["type"] for each in schemas))
        if set(kinds) == {"integer", "number"}:
            kinds = ["number"]
        for other in kinds[1:]:
            self._say(place, f"may also be of type {other}")
        first, *rest = (each for each in schemas if each["type"] == kinds[0] or kinds == ["number"])
        made = {**first, "type": kinds[0]}
        for each in rest:
            made = self._either(made, each, place)
        return made

    def _either(self, one: Schema, other: Schema, place: Place) -> Schema:
        """A schema that admits what either of two schemas of one kind admits."""
        made = {"type": one["type"]}
        if description := one.get("description", other.get("description")):
            made["description"] = description
        if "default" in one or "default" in other:
            made["default"] = one.get("default", other.get("default"))
        if "enum" in one and "enum" in other:
            made["enum"] = list(dict.fromkeys(one["enum"] + other["enum"]))
        bounds: Sequence[tuple[str, Callable[..., Any]]] = (("minimum", min), ("maximum", max))
        for bound, wider in bounds:
            if bound in one and bound in other:
                made[bound] = wider(one[bound], other[bound])
        if "items" in one:
            made["items"] = self._united([one["items"], other["items"]], place.inside("[]"))
        if "properties" in one or "properties" in other:
            members = [each.get("properties", {}) for each in (one, other)]
            made["properties"] = {
                name: self._united([each[name] for each in members if name in each], place.inside(name))
                for name in {**members[0], **members[1]}
            }
            made["required"] = [name for name in one.get("required", []) if name in other.get("required", [])]
            if one.get("additionalProperties") is other.get("additionalProperties") is False:
                made["additionalProperties"] = False
        return made

    def _say_rest(self, schema: Schema, made: Schema, place: Place) -> None:
        """Put into words the rules that `made` has lost."""
        for name, words in WORDS.items():
            if isinstance(value := schema.get(name), str | int | float) and not (
                name in made or isinstance(value, bool) or value in NUMBER_FORMATS
            ):
                self._say(place, words.format(value))
        if "enum" in schema and "enum" not in made:
            self._say(place, "is one of a few values")
        if rules := [name for name in RULES if schema.get(name)]:
            self._say(place, f"has other rules ({', '.join(rules)})")

    def _say(self, place: Place, words: str) -> None:
        self.unsaid[f"{place.path or 'the call'} {words}"] = None


def split(schema: Schema) -> Iterator[Schema]:
    """Split a schema of several kinds into schemas of one kind, by its `type` or the values of its `enum`."""
    if "const" in schema:
        schema = {name: value for name, value in schema.items() if name != "const"} | {
            "enum": [schema["const"]]
        }
    kinds = schema.get("type")
    values = schema.get("enum")
    if isinstance(values, list) and values:
        for kind in dict.fromkeys(map(kind_of_value, values)):
            if kinds is None or admits(kinds, kind):
                yield {
                    **schema,
                    "type": kind,
                    "enum": [value for value in values if kind_of_value(value) == kind],
                }
    elif isinstance(kinds, list):
        for kind in kinds:
            yield {**schema, "type": kind}
    else:
        yield schema


def admits(kinds: Any, kind: str) -> bool:
    """Whether a `type` takes values of this kind."""
    named = kinds if isinstance(kinds, list) else [kinds]
    return kind in named or (kind == "integer" and "number" in named)


def kind_of(schema: Schema) -> str | None:
    kind = schema.get("type")
    if kind in KINDS:
        return str(kind)
    return next((kind for name, kind in TELLING.items() if name in schema), None)


def kind_of_value(value: Any) -> str:
    return PYTHON_KINDS[type(value)]


def is_exact(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= EXACT


def both(one: Schema, other: Schema) -> Schema:
    """A schema that admits what both admit; where both set a keyword, the second is the stricter."""
    made = {**one, **other}
    # A description at the place of use fits better than the one at the definition.
    made |= {name: one[name] for name in ("description", "default") if name in one}
    if isinstance(one.get("enum"), list) and isinstance(other.get("enum"), list):
        made["enum"] = [value for value in one["enum"] if value in other["enum"]]
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        made["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        members = {**one["properties"], **other["properties"]}
        made["properties"] = {
            name: {"allOf": [one["properties"][name], other["properties"][name]]}
            if name in one["properties"] and name in other["properties"]
            else member
            for name, member in members.items()
        }
    return made
