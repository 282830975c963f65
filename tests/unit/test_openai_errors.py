"""Our errors in the form of OpenAI's API."""

import pytest

from chatapi.errors.base import AppError, catalogue
from chatapi.openai_api.errors import error_of, headers_of, status_of

# Of the errors that the SDKs send again by themselves, those that it is no use for.
IN_VAIN = {
    *("not_queued", "turn_superseded", "turn_cancelled", "not_waiting", "turn_ended", "item_in_use"),
    *("nothing_to_summarize", "summaries_off"),
    *("insufficient_quota", "model_filtered", "model_looped", "model_misconfigured", "wait_expired"),
}


def raised(kind: type[AppError]) -> AppError:
    """An error of the kind, as it is raised as a rule, but that its detail is the same for all."""
    waits = {"turn-in-progress": 1, "key-in-progress": 1, "queue-full": 1, "rate-limited": 60}
    error = kind.__new__(kind, "What to mend.")
    wait = {"budget-exceeded": 7_200, "model-busy": 600}.get(kind.type, waits.get(kind.type))
    AppError.__init__(error, "What to mend.", retry_after=wait)
    for name in ("code", "allow", "size"):  # what the headers of some kinds are made of
        vars(error).setdefault(name, None)
    return error


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.type)
def test_each_error_has_its_form(kind: type[AppError]) -> None:
    error = raised(kind)
    told, headers = error_of(error), headers_of(error)
    assert told.message == "What to mend."
    assert status_of(error) == (400 if kind.status == 422 else kind.status)
    retried = kind.status in {409, 429} or kind.status >= 500
    assert (headers.get("x-should-retry") == "false") == (retried and told.code in IN_VAIN)
    if kind.status >= 500:
        assert told.type == "server_error"
        assert int(headers.get("Retry-After", 0)) <= 60
