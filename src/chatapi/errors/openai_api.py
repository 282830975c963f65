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
