"""The caller is unknown, or may not do this."""

from typing import Final

from chatapi.errors.base import AppError


class Unauthenticated(AppError):
    """No token (`code` is None), or one that does not hold (RFC 6750, section 3)."""

    status = 401
    type = "unauthenticated"
    title = "Authentication needed"
    when = (
        "There is no token, or it does not hold; `WWW-Authenticate` has "
        '`error="invalid_token"` in the second case, and `detail` the reason'
    )
    remedy = "Get a new token, and send it as `Authorization: Bearer …`"
    act = "sign_in.denied"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.code: Final = code

    @property
    def headers(self) -> dict[str, str]:
        if self.code is None:
            return {"WWW-Authenticate": "Bearer"}
        return {"WWW-Authenticate": f'Bearer error="{self.code}", error_description="{self.detail}"'}


class NotYourPath(AppError):
    status = 403
    type = "not-your-path"
    title = "The path belongs to another user"
    when = "The `{user_id}` of the path is not the token's user"
    remedy = "Use your own; `GET /api/me` says who you are. Or use `/api/chat`"
    act = "path.denied"


class KeyNotAllowed(AppError):
    status = 403
    type = "key-not-allowed"
    title = "An API key may not do this"
    when = "The route needs its user: a key may neither make, list or revoke keys nor erase the account"
    remedy = "Send a token of your sign-in service"
    act = "key.denied"

    def __init__(self) -> None:
        super().__init__("An API key may not do this; send a token of your sign-in service.")


class JWKSUnavailable(AppError):
    """Whether a token holds cannot be told."""

    status = 503
    type = "jwks-unavailable"
    title = "The sign-in service's keys are away"
    when = "The keys that tokens are checked with have never been fetched, and their server is away"
    remedy = "Wait for `Retry-After` and send again. Operator: see `BETTER_AUTH_URL` and `JWKS_URL`"
