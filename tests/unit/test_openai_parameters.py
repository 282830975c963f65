"""Bodies of OpenAI's API: each parameter has its row, and each row does what it says."""

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParams
from openai.types.conversations.conversation_create_params import ConversationCreateParams
from openai.types.conversations.conversation_update_params import ConversationUpdateParams
from openai.types.conversations.item_create_params import ItemCreateParams
from openai.types.responses.response_create_params import ResponseCreateParams

from chatapi.errors.base import AppError
from chatapi.errors.openai_api import UnsupportedParameter
from chatapi.errors.requests import Invalid
from chatapi.openai_api.chat_body import ChatBody
from chatapi.openai_api.conversations import ConversationBody, ItemsBody, NewConversationBody
from chatapi.openai_api.errors import error_of, status_of
from chatapi.openai_api.parameters import Body, Parameter, passed_on, refused, supported
from chatapi.openai_api.response_body import ResponseBody
from website import parameters as documented

# Each body of the API, with the type of its parameters in the `openai` package: a TypedDict, or a union of some.
ENDPOINTS: list[tuple[type[Body], Any]] = [
    (ChatBody, CompletionCreateParams),
    (ResponseBody, ResponseCreateParams),
    (NewConversationBody, ConversationCreateParams),
    (ConversationBody, ConversationUpdateParams),
    (ItemsBody, ItemCreateParams),
]


def parameters_of(typed: Any) -> set[str]:
    return {name for each in get_args(typed) or [typed] for name in each.__annotations__}


@pytest.mark.parametrize(("body", "typed"), ENDPOINTS, ids=lambda each: getattr(each, "__name__", ""))
def test_the_table_of_a_body_has_a_row_for_each_parameter_of_the_api(body: type[Body], typed: Any) -> None:
    assert set(body.parameters) == parameters_of(typed)
    taken = {name for name, each in body.parameters.items() if each.support != "refused"}
    assert taken == set(body.__struct_encode_fields__)


def test_the_tables_of_the_document_are_those_of_the_bodies() -> None:
    assert {body for body, _ in ENDPOINTS} == set(documented.BODIES.values())
    assert documented.DOCUMENT.read_text() == documented.document(), (
        "run: .venv/bin/python -m website.parameters"
    )


class Inner(Body, frozen=True):
    text: str
    parameters: ClassVar[Mapping[str, Parameter]] = {"text": supported()}


class Example(Body, frozen=True):
    model: str
    inner: tuple[Inner, ...] = ()
    temperature: float | None = None
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "model": supported("The model's id"),
        "inner": supported(),
        "temperature": passed_on(),
        "n": refused("There is one answer.", but=[1]),
        "tools": refused(but=[[]]),
    }


class TestBody:
    @pytest.mark.parametrize("also", [{}, {"n": 1}, {"n": None}, {"tools": []}, {"temperature": 0.5}])
    def test_takes_what_says_what_holds_anyway(self, also: dict[str, Any]) -> None:
        read = Example.read({"model": "a", **also})
        assert read == {"model": "a"} | {name: value for name, value in also.items() if name == "temperature"}

    @pytest.mark.parametrize(
        ("body", "kind", "param", "message"),
        [
            ({"n": 2}, UnsupportedParameter, "n", "Unsupported parameter: 'n'. There is one answer."),
            ({"n": True}, UnsupportedParameter, "n", "Unsupported parameter: 'n'. There is one answer."),
            ({"tools": [{}]}, UnsupportedParameter, "tools", "Unsupported parameter: 'tools'."),
            ({"new": None}, UnsupportedParameter, "new", "Unsupported parameter: 'new'."),
            (
                {"inner": [{"text": "x", "new": 1}]},
                UnsupportedParameter,
                "inner[0].new",
                "Unsupported parameter: 'inner[0].new'.",
            ),
            ({"inner": [{}]}, Invalid, "inner[0].text", "inner[0].text: is missing"),
            ({"inner": [{"text": 1}]}, Invalid, "inner[0].text", "inner[0].text: Expected `str`, got `int`"),
            ({"model": 1}, Invalid, "model", "model: Expected `str`, got `int`"),
        ],
    )
    def test_names_what_it_does_not_take(
        self, body: dict[str, Any], kind: type[AppError], param: str, message: str
    ) -> None:
        with pytest.raises(kind) as caught:
            Example.read({"model": "a", **body})
        assert status_of(caught.value) == 400
        told = error_of(caught.value)
        assert (told.param, told.message) == (param, message)
        assert told.code == {UnsupportedParameter: "unsupported_parameter", Invalid: "invalid_value"}[kind]

    def test_is_an_object(self) -> None:
        with pytest.raises(Invalid, match="Expected `object`"):
            Example.read([])
