"""What becomes of each parameter of OpenAI's API: the table of a body, and how a body is read by it."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from chatapi.errors.openai_api import UnsupportedParameter
from chatapi.errors.requests import Invalid
from chatapi.text import path_and_message

# A short name of a caller's for the provider of the model. It changes no answer, so a provider that has no such thing does not get it.
Identifier = Annotated[str, Meta(min_length=1, max_length=64)]
IDENTIFIERS = {
    "safety_identifier": "To `openai:` and `openai-responses:`, and to `anthropic:` as `metadata.user_id`; changes nothing elsewhere",
    "user": "Likewise, where there is no `safety_identifier`. Who asks is the token's user, whatever it says",
    "prompt_cache_key": "To `openai:` and `openai-responses:`; elsewhere what a conversation begins with is found without a key",
}
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.S)
MISSING = re.compile(r"Object missing required field `(.*)`", re.S)


class Parameter(Struct, frozen=True):
    """`note` is for the docs. A refused one is taken if it has one of the values in `holds`, or null."""

    support: Literal["supported", "passed on", "refused"]
    note: str = ""
    holds: Sequence[Any] = ()


def supported(note: str = "") -> Parameter:
    return Parameter("supported", note)


def passed_on(note: str = "") -> Parameter:
    """The model's provider decides what becomes of it."""
    return Parameter("passed on", note)


def refused(note: str = "", *, but: Sequence[Any] = ()) -> Parameter:
    """Refused, `but` not with a value that says what holds anyway."""
    return Parameter("refused", note, but)


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body of the API. `parameters` has every parameter that the API has there; its fields are those not refused."""

    parameters: ClassVar[Mapping[str, Parameter]] = {}

    @classmethod
    def read(cls, value: Any) -> Any:
        """The members that are not refused. Raises `UnsupportedParameter` and `Invalid`."""
        if isinstance(value, dict):
            value = without_what_holds(value, cls.parameters)
        try:
            msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise refusal_of(*path_and_message(error)) from None
        return value


def without_what_holds(body: dict[str, Any], parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The body without refused parameters that say what holds anyway; raises `UnsupportedParameter` for any others."""
    kept = {}
    for name, value in body.items():
        if (parameter := parameters.get(name)) is None:
            raise UnsupportedParameter(name)
        if parameter.support != "refused":
            kept[name] = value
        elif value is not None and not any(is_same(value, held) for held in parameter.holds):
            raise UnsupportedParameter(name, parameter.note)
    return kept


def is_same(value: Any, held: Any) -> bool:
    return type(value) is type(held) and value == held  # to Python, True is 1


def refusal_of(path: str, message: str) -> UnsupportedParameter | Invalid:
    """The error for a value that does not hold; `path` leads to the object that a member is missing in, or too many."""
    prefix = path and f"{path}."
    if unknown := UNKNOWN.fullmatch(message):
        return UnsupportedParameter(prefix + unknown[1])
    if path.rpartition(".")[2] == "type" and message.startswith("Invalid value"):
        return UnsupportedParameter(path, message)
    if missing := MISSING.fullmatch(message):
        return Invalid((prefix + missing[1], "is missing"))
    return Invalid((path, message))
