"""Errors that only OpenAI's API knows."""

from chatapi.errors.base import AppError
from chatapi.errors.requests import NotFound


class ModelNotFound(NotFound):
    type = "model-not-found"
    title = "No such model"
    when = "Below `/v1`: `model` is no id of `GET /v1/models`"
    remedy = "Use one of those"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model!r} does not exist here; GET /v1/models lists those that do.")


class UnsupportedParameter(AppError):
    """`parameter` is the path of the one that is refused, as the API names it: `messages[2].name`."""

    status = 400
    type = "unsupported-parameter"
    title = "The parameter is not supported"
    when = "Below `/v1`: a parameter that this service does not have, or does not have with this value; `param` names it"
    remedy = "Leave it out; the tables in [OpenAI's API](openai.md) say what each parameter does here"

    def __init__(self, parameter: str, reason: str = "") -> None:
        super().__init__(
            f"Unsupported parameter: '{parameter}'.{reason and f' {reason}'}",
            errors=[{"path": parameter, "message": reason or "is not supported here"}],
        )


class ResponseNotFound(NotFound):
    type = "response-not-found"
    title = "No such response"
    when = "Below `/v1`: you have no response with this id"
    remedy = "Use an id that a response has told"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"There is no response {response_id!r} of yours.")


class PreviousResponseNotFound(AppError):
    status = 400
    type = "previous-response-not-found"
    title = "No such previous response"
    when = "Below `/v1`: `previous_response_id` is no id of a response of yours"
    remedy = "Use the id of the conversation's last response, or send the conversation in `input`"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"There is no response {response_id!r} of yours.",
            errors=[{"path": "previous_response_id", "message": "names no response of yours"}],
        )


class ItemNotFound(NotFound):
    type = "item-not-found"
    title = "No such item"
    when = "Below `/v1`: you have no item with this id"
    remedy = "Send the item itself"

    def __init__(self, item_id: str, path: str) -> None:
        super().__init__(
            f"There is no item {item_id!r} of yours.",
            errors=[{"path": path, "message": "names no item of yours"}],
        )


class ItemInUse(AppError):
    """`reason` says what holds the item."""

    status = 409
    type = "item-in-use"
    title = "The item cannot be deleted by itself"
    when = "Below `/v1`: the item belongs to a response, or is a call whose output is there"
    remedy = "Delete what holds it: the response, the call's output, or the conversation"

    def __init__(self, item_id: str, reason: str) -> None:
        super().__init__(
            f"The item {item_id!r} {reason}",
            errors=[{"path": "item_id", "message": "cannot be deleted by itself"}],
        )
