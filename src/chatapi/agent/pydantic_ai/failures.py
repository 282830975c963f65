"""Turns a model's failure into the caller's error. The provider's words go at most to the log, never to a client."""

import logging
from math import ceil

from pydantic_ai.exceptions import (
    ContentFilterError,
    FallbackExceptionGroup,
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelTimeoutError,
    ModelUnavailableError,
    OutputTokenLimitExceeded,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
)

from chatapi.agent.llm import LOOPED
from chatapi.errors.base import AppError
from chatapi.errors.models import (
    ModelBusy,
    ModelEmpty,
    ModelFailed,
    ModelFiltered,
    ModelLooped,
    ModelMisconfigured,
    ModelTooSlow,
    ModelTruncated,
)

log = logging.getLogger(__name__)

BUSY = {429, 503, 529}  # 529 is Anthropic's "overloaded"
PASSING = {408, 409, 429}  # of the statuses below 500, those that a later try may not meet
BUSY_SECONDS = 5  # if the provider gives no delay

TRUNCATED = "The model's answer broke off."
FILTERED = "The model's provider refused to answer this message."


def passes(error: Exception) -> bool:
    """Whether the same request may succeed with another model, or later: the model is down, limited or away."""
    if not isinstance(error, ModelAPIError) or isinstance(error, ModelRequestRejectedError):
        return False
    return not isinstance(error, ModelHTTPError) or error.status_code >= 500 or error.status_code in PASSING


def is_slow(error: Exception) -> bool:
    return isinstance(error, ModelTimeoutError | ModelRequestTimeout)


def is_busy(error: Exception) -> bool:
    if isinstance(error, ModelHTTPError):
        return error.status_code in BUSY
    return isinstance(error, ModelRateLimitError | ModelUnavailableError)


def failure_of(error: Exception, model: str, *, began: bool) -> AppError:
    """The error that a client sees; `began`: a piece of the answer had arrived."""
    if isinstance(error, FallbackExceptionGroup):
        error = next((each for each in error.exceptions if is_busy(each)), error.exceptions[-1])
    failure = api_failure(error, began=began) if isinstance(error, ModelAPIError) else run_failure(error)
    if isinstance(failure, ModelMisconfigured) or isinstance(error, ModelQuotaExceededError):
        log.error("The provider refuses %s: %s", model, refusal(error))
    else:
        status = f" {error.status_code}" if isinstance(error, ModelHTTPError) else ""
        log.warning("The model %s failed (%s): %s%s", model, failure.type, type(error).__name__, status)
    return failure


def refusal(error: Exception) -> str:
    """The provider's status and code, without its sentence, which may quote the user's message."""
    if not isinstance(error, ModelHTTPError):
        return type(error).__name__
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    described = inner if isinstance(inner, dict) else body
    codes = [described.get(name) for name in ("type", "status", "code")]
    return " ".join([str(error.status_code), *(code for code in codes if isinstance(code, str))])


def api_failure(error: ModelAPIError, *, began: bool) -> AppError:
    if is_slow(error):
        return ModelTooSlow("The model did not answer in time.")
    if is_busy(error):
        delay = BUSY_SECONDS if error.retry_after is None else max(1, ceil(error.retry_after))
        return ModelBusy("The model is busy; try again shortly.", retry_after=delay)
    if not passes(error):
        return ModelMisconfigured("The model's provider refused the service's request.")
    if began and not isinstance(error, ModelHTTPError):
        return ModelTruncated(TRUNCATED)
    if isinstance(error, ModelConnectionError):
        return ModelFailed("The model could not be reached.")
    return ModelFailed("The model failed to answer.")


def run_failure(error: Exception) -> AppError:
    match error:
        case UsageLimitExceeded():
            return ModelLooped(LOOPED)
        case ContentFilterError():
            return ModelFiltered(FILTERED)
        case OutputTokenLimitExceeded():
            return ModelTruncated(TRUNCATED)
        case UnexpectedModelBehavior() if "output retries" in str(error):
            return ModelEmpty("The model gave an empty answer.")
    return ModelFailed("The model gave an answer that cannot be used.")
