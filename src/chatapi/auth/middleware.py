"""Sets `connection.user` from the Authorization header: a token's user, or an API key's."""

from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp

from chatapi.auth.api_keys import APIKeys, is_api_key
from chatapi.auth.tokens import DEMO, Identity, TokenVerifier, invalid_token
from chatapi.errors.auth import Unauthenticated


class BearerAuthentication(AbstractAuthenticationMiddleware):
    """RFC 6750 bearer tokens, JWTs or API keys; `connection.user` is an `Identity`.

    In demo mode, and only without an Authorization header, the caller is the user `demo`.
    """

    def __init__(self, app: ASGIApp, verifier: TokenVerifier, keys: APIKeys, *, demo_mode: bool) -> None:
        # Do not exclude OPTIONS: its requests pass the same guards, which read connection.user.
        super().__init__(app, exclude_http_methods=())
        self._verifier = verifier
        self._keys = keys
        self._demo_mode = demo_mode

    async def authenticate_request(self, connection: ASGIConnection) -> AuthenticationResult:  # type: ignore[type-arg]
        return AuthenticationResult(
            user=await self._identify(connection.headers.getall("authorization", [])), auth=None
        )

    async def _identify(self, headers: list[str]) -> Identity:
        if not headers:
            if self._demo_mode:
                return DEMO
            raise Unauthenticated("Send a token: Authorization: Bearer …")
        if len(headers) > 1:
            raise invalid_token("more than one Authorization header")
        scheme, _, token = headers[0].partition(" ")
        # RFC 6750, section 3.1: answer another scheme with ours, without an error code.
        if scheme.lower() != "bearer":
            raise Unauthenticated("Send a token: Authorization: Bearer …")
        token = token.strip()
        return await (self._keys if is_api_key(token) else self._verifier).verify(token)
