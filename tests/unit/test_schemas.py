"""The offered form of tools' JSON Schemas: few words, a type everywhere, and nothing that a server refuses."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.agent.schemas import KINDS, MAX_NODES, offer
from chatapi.agent.tools import TASK_TOOLS

WORDS = {
    *("type", "description", "default", "enum", "minimum", "maximum"),
    *("properties", "required", "additionalProperties", "items"),
}


def of(member: Any, **more: Any) -> dict[str, Any]:
    """The offered schema of an object's only member."""
    return offered({"type": "object", "properties": {"x": member}, **more})["properties"]["x"]  # type: ignore[no-any-return]


def offered(schema: Any) -> dict[str, Any]:
    found = offer(schema).schema
    check(found)
    return found


def check(schema: dict[str, Any]) -> int:
    """Fails unless all servers understand the schema; returns how many schemas are in it."""
    assert schema["type"] in KINDS
    assert schema.keys() <= WORDS
    assert None not in schema.get("enum", ())
    assert schema.get("default", 0) is not None
    inside = [*schema.get("properties", {}).values()]
    if schema["type"] == "array":
        inside.append(schema["items"])
    if isinstance(others := schema.get("additionalProperties"), dict):
        inside.append(others)
    assert set(schema.get("required", ())) <= schema.get("properties", {}).keys()
    return 1 + sum(map(check, inside))


def test_of_our_own_tools_is_what_models_are_to_know() -> None:
    text, task_id = {"type": "string"}, "The id of a task, as list_tasks gives it"
    one = {"task_id": {"type": "integer", "minimum": 1, "description": task_id}}
    status = {"type": "string", "enum": ["all", "completed", "pending"], "default": "all"}
    cursor = {"type": "string", "description": "next_cursor of the page before"}
    members: dict[str, tuple[dict[str, Any], list[str]]] = {
        "add_task": ({"title": text, "description": text}, ["title"]),
        "list_tasks": ({"status": status, "cursor": cursor}, []),
        "complete_task": (one, ["task_id"]),
        "delete_task": (one, ["task_id"]),
        "update_task": (
            {**one, "title": text, "description": text, "completed": {"type": "boolean"}},
            ["task_id"],
        ),
    }
    for tool in TASK_TOOLS:
        check(tool.spec.parameters)
    assert {tool.name: tool.spec.parameters for tool in TASK_TOOLS} == {
        name: {"type": "object", "properties": each, "required": required, "additionalProperties": False}
        for name, (each, required) in members.items()
    }


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        ({"type": "string", "pattern": r"^\\s*$", "minLength": 1, "maxLength": 2000}, {"type": "string"}),
        ({"type": "string", "format": "date", "title": "X", "examples": ["y"]}, {"type": "string"}),
        ({"enum": ["a", "b"], "default": "a"}, {"type": "string", "enum": ["a", "b"], "default": "a"}),
        ({"enum": [1, 2]}, {"type": "integer", "enum": [1, 2]}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"]}),
        ({"type": ["integer", "null"], "enum": [1, None, "a"]}, {"type": "integer", "enum": [1]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"const": True}, {"type": "boolean"}),
        ({"type": ["string", "null"], "default": None}, {"type": "string"}),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}], "default": 3}, {"type": "integer", "default": 3}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}], "default": "a"}, {"type": "integer"}),
        ({"oneOf": [{"const": "a"}, {"enum": ["b", "a"]}]}, {"type": "string", "enum": ["a", "b"]}),
        ({"anyOf": [{"const": "a"}, {"type": "string"}]}, {"type": "string"}),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "number", "minimum": 0}]}, {"type": "number", "minimum": 0}),
        ({"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "format": "int64"}, {"type": "integer", "minimum": 0}),
        ({"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5}, {"type": "number"}),
        ({"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 2000}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]}, {"type": "array", "items": {"type": "number"}}),
        ({"minimum": 3}, {"type": "number", "minimum": 3}),
        ({"type": "object", "additionalProperties": {"type": ["integer", "null"]}}, {"type": "object", "additionalProperties": {"type": "integer"}}),
        ({"type": "object"}, {"type": "object"}),
        ({}, {"type": "string"}),
        (True, {"type": "string"}),
        (None, {"type": "string"}),
        ({"type": "null"}, {"type": "string"}),
        ({"type": "nonsense", "enum": "no list", "properties": 3, "anyOf": {}, "allOf": 1}, {"type": "object"}),
        ({"type": "string", "enum": [["unhashable"]], "required": [[]]}, {"type": "string"}),
    ],
)  # fmt: skip
def test_of_a_member_is_its_plain_type(schema: Any, made: dict[str, Any]) -> None:
    assert of(schema) == made


def test_of_objects_of_which_one_holds_has_the_members_of_all() -> None:
    """A discriminated union: what is offered is looser, and its server checks."""
    by_name = {
        "properties": {"by": {"const": "name"}, "name": {"type": "string"}},
        "required": ["by", "name"],
    }
    by_id = {"properties": {"by": {"const": "id"}, "id": {"type": "integer"}}, "required": ["by", "id"]}
    assert of({"oneOf": [by_name, by_id], "discriminator": {"propertyName": "by"}}) == {
        "type": "object",
        "properties": {
            "by": {"type": "string", "enum": ["name", "id"]},
            "name": {"type": "string"},
            "id": {"type": "integer"},
        },
        "required": ["by"],
    }


def test_of_parts_that_all_hold_has_them_all() -> None:
    parts = [
        {"$ref": "#/$defs/Base"},
        {"properties": {"b": {"type": "integer"}, "a": {"maxLength": 3}}, "required": ["b"]},
    ]
    base = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert of({"allOf": parts, "description": "D"}, **{"$defs": {"Base": base}}) == {
        "type": "object",
        "description": "D",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    }


class TestReferences:
    @pytest.mark.parametrize("reference", ["#/$defs/a~1b", "#/$defs/a%7E1b", "#/%24defs/a~1b", "#/x/0"])
    def test_inside_the_document_are_resolved(self, reference: str) -> None:
        unit = {"enum": ["c", "f"], "description": "A unit."}
        definitions = {"$defs": {"a/b": unit}, "x": [unit]}
        made = {"type": "string", "enum": ["c", "f"], "description": "A unit."}
        assert of({"$ref": reference}, **definitions) == made
        assert of({"$ref": reference, "description": "Which."}, **definitions)["description"] == "Which."

    @pytest.mark.parametrize(
        "reference", ["https://example.com/x.json", "#/nowhere", "#anchor", "", "other.json#/x"]
    )
    def test_that_lead_nowhere_are_any_value(self, reference: str) -> None:
        assert of({"$ref": reference})["type"] in {"string", "object"}

    def test_in_a_circle_end(self) -> None:
        tree = {
            "properties": {
                "label": {"type": "string"},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/T"}},
            }
        }
        made = of({"$ref": "#/$defs/T"}, **{"$defs": {"T": {**tree, "type": "object"}}})
        assert made["properties"]["kids"] == {"type": "array", "items": {"type": "object"}}
        assert of(
            {"$ref": "#/$defs/A"}, **{"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}
        ) == {"type": "string"}
        assert offered({"$ref": "#"})["type"] == "object"

    @pytest.mark.parametrize("keyword", ["properties", "anyOf", "allOf"])
    def test_that_stand_for_millions_of_schemas_are_cut(self, keyword: str) -> None:
        def twice(name: str) -> Any:
            parts = [{"$ref": f"#/$defs/{name}"}, {"$ref": f"#/$defs/{name}"}]
            return {keyword: dict(zip("ab", parts, strict=True)) if keyword == "properties" else parts}

        definitions = {f"D{number}": twice(f"D{number + 1}") for number in range(30)}
        made = offered({"type": "object", "properties": {"x": twice("D0")}, "$defs": definitions})
        assert check(made) <= MAX_NODES

    def test_so_deep_that_python_gives_up_are_cut(self) -> None:
        schema: dict[str, Any] = {"type": "string"}
        for number in range(400):
            ways: list[dict[str, Any]] = [{"anyOf": [schema]}, {"allOf": [schema]}, {"items": schema}]
            schema = ways[number % 3]
        assert of(schema)["type"] in KINDS


class TestUnsaid:
    def test_is_in_the_description(self) -> None:
        schema = {
            "type": "object",
            "properties": {
                "city": {"type": "string", "pattern": "^[A-Z]", "maxLength": 50},
                "days": {"anyOf": [{"type": "integer"}, {"type": "string", "format": "date"}]},
                "where": {
                    "type": "object",
                    "properties": {"lat": {"type": "number", "exclusiveMaximum": 90}},
                },
                "tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "uniqueItems": True},
            },
            "minProperties": 1,
        }
        assert offer(schema).describe("The weather.") == (
            "The weather.\n\nNot in the schema, but checked: city matches ^[A-Z]; city has 50 characters at most; "
            "days is a date; days may also be of type string; where.lat is under 90; "
            "tags[] has 2 characters at least; tags has other rules (uniqueItems); the call has 1 members at least."
        )

    def test_is_nothing_where_nothing_was_left_out(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string", "title": "A", "examples": ["x"]}}}
        assert offer(schema).describe("It.") == "It."

    def test_is_bounded(self) -> None:
        members = {f"member{number}": {"type": "string", "maxLength": 9} for number in range(500)}
        assert len(offer({"type": "object", "properties": members}).describe("It.")) < 600


def test_what_has_to_be_there_and_may_be_null_is_null_where_it_is_left_out() -> None:
    nullable = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    members = {
        "a": nullable,
        "b": nullable,
        "c": {"type": "integer"},
        "d": {"enum": ["x", None]},
        "e": {"type": "null"},
    }
    made = offer({"type": "object", "properties": members, "required": ["a", "c", "d", "e"]})
    assert (made.schema["required"], made.nulls) == (["c"], ["a", "d", "e"])


@pytest.mark.parametrize(
    "schema", [{}, {"type": "object"}, {"type": "string"}, {"properties": None}, {"anyOf": []}]
)
def test_of_no_members_is_an_object_without_any(schema: dict[str, Any]) -> None:
    assert offered(schema) == {"type": "object", "properties": {}, "required": []}


names = st.sampled_from(["a", "b", "", "a.b", "$ref"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
KEYWORDS = [
    *(
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "properties",
        "required",
        "additionalProperties",
    ),
    *(
        "items",
        "prefixItems",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "format",
        "default",
        "description",
    ),
    *("not", "if", "patternProperties", "$defs"),
]
values = st.recursive(
    scalars
    | st.sampled_from([*KINDS, "null", "#", "#/$defs/a", "#/properties/a"])
    | st.lists(st.sampled_from([*KINDS, "null", "a", "b"]), max_size=3),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(names, inside, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS), inside, max_size=5)
    ),
    max_leaves=25,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(schema=st.dictionaries(st.sampled_from(KEYWORDS), values, max_size=6))
def test_of_whatever_a_server_says_is_understood_by_all(schema: dict[str, Any]) -> None:
    found = offer(schema)
    assert check(found.schema) <= MAX_NODES
    assert found.schema["type"] == "object"
    json.dumps(found.schema)
    assert len(found.describe("")) < 600
