"""The error that a client gets for a failure that no provider of the tests produces."""

import pytest
from pydantic_ai.exceptions import (
    ContentFilterError,
    FallbackExceptionGroup,
    ModelConnectionError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelTimeoutError,
    OutputTokenLimitExceeded,
    UnexpectedModelBehavior,
)

from chatapi.agent.pydantic_ai.failures import failure_of

QUOTA = ModelHTTPError.for_category(
    ModelQuotaExceededError, status_code=429, model_name="m", body="secret", retry_after=3_600.2
)


@pytest.mark.parametrize(
    ("error", "type_", "retry_after"),
    [
        (ContentFilterError("secret"), "model-filtered", None),
        (OutputTokenLimitExceeded("secret"), "model-truncated", None),
        (UnexpectedModelBehavior("secret"), "model-failed", None),
        (ModelTimeoutError("m", "secret"), "model-too-slow", None),
        (ModelOverloadedError("m", "secret"), "model-busy", 5),
        (ModelHTTPError(402, "m", "secret"), "model-misconfigured", None),
        (QUOTA, "model-busy", 3_601),
        (FallbackExceptionGroup("all", [QUOTA, ModelConnectionError("m", "secret")]), "model-busy", 3_601),
        (FallbackExceptionGroup("all", [ModelConnectionError("m", "secret")]), "model-failed", None),
        (FallbackExceptionGroup("all", [ModelHTTPError(404, "m", "secret")]), "model-misconfigured", None),
    ],
)
def test_a_failure_has_its_type(error: Exception, type_: str, retry_after: int | None) -> None:
    failure = failure_of(error, "openai:m", began=False)
    assert (failure.type, failure.retry_after) == (type_, retry_after)
    assert "secret" not in failure.detail
