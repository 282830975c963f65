"""Reasons to refuse any request."""

from typing import Final

from chatapi.errors.base import AppError


class NotFound(AppError):
    status = 404
    type = "not-found"
    title = "Not found"
    when = "Nothing is served at this path, or the id can belong to nothing"
    remedy = "Check the path"


class MethodNotAllowed(AppError):
    """`allow` lists the methods that the path takes, as the header `Allow` does."""

    status = 405
    type = "method-not-allowed"
    title = "Method not allowed"
    when = "The path is there, but not with this method"
    remedy = "Use one of the methods in `Allow`"

    def __init__(self, allow: str) -> None:
        super().__init__(f"This path takes {allow}.")
        self.allow: Final = allow

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": self.allow}


class BodyTooLarge(AppError):
    status = 413
    type = "body-too-large"
    title = "The body is too large"
    when = "The body is over 1 MiB, or over 16 MiB where it holds a whole conversation (`/v1`)"
    remedy = "Send less"

    def __init__(self) -> None:
        super().__init__("The body is larger than this path takes.")


class UnsupportedMediaType(AppError):
    status = 415
    type = "unsupported-media-type"
    title = "Unsupported media type"
    when = "`Content-Type` says that the body is not JSON"
    remedy = "Send JSON, with `Content-Type: application/json`"


class Invalid(AppError):
    """The request is understood but not acceptable; each error is a path and a message."""

    status = 422
    type = "validation-failed"
    title = "The request is not valid"
    when = (
        "The body is not JSON, or a member, a parameter or a cursor does not hold; "
        "`errors` lists each `path` and `message`"
    )
    remedy = "Mend what `errors` names. Sending the same again will not help"

    def __init__(self, *errors: tuple[str, str]) -> None:
        super().__init__(
            "; ".join(f"{path}: {message}" if path else message for path, message in errors),
            errors=[{"path": path, "message": message} for path, message in errors],
        )


class RateLimited(AppError):
    """One request too many; `policy` names the limit, as the header `RateLimit-Policy` does."""

    status = 429
    type = "rate-limited"
    title = "Too many requests"
    when = "You, or your address, have sent too much; `policy` says which limit it was"
    remedy = "Wait for `Retry-After`; the headers `RateLimit` and `RateLimit-Policy` tell how much is left"
    act = "rate_limit.exceeded"

    def __init__(self, detail: str, *, retry_after: int, policy: str) -> None:
        super().__init__(detail, retry_after=retry_after, policy=policy)


class BudgetExceeded(AppError):
    """`policy` names the budget, as the header `RateLimit-Policy` does."""

    status = 429
    type = "budget-exceeded"
    title = "The budget is used up"
    when = "What you may use in this window is used up; `policy` says which budget it was"
    remedy = "Wait for `Retry-After`, when the next window begins; turns under way go on"
    act = "budget.exceeded"

    def __init__(self, detail: str, *, retry_after: int, policy: str) -> None:
        super().__init__(detail, retry_after=retry_after, policy=policy)


class HeadTooLarge(AppError):
    status = 431
    type = "head-too-large"
    title = "The request's head is too large"
    when = "The request line and the headers are over 64 KiB together"
    remedy = "Send shorter headers, such as fewer cookies"

    def __init__(self) -> None:
        super().__init__("The request line and the headers have 64 KiB together at the most.")
