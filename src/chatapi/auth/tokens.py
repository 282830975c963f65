"""Who a bearer token speaks for (RFC 7519, hardened by RFC 8725). No framework here."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from msgspec import Struct

from chatapi.errors import Unauthenticated
from chatapi.settings import Settings

MAX_TOKEN_BYTES = 16 * 1024  # a Better Auth token may carry a name of any length; a header may not
MAX_USER_ID = 255
LEEWAY = timedelta(seconds=30)  # clocks of two machines differ by less
USER_CLAIMS = ("sub", "userId", "id")


class Identity(Struct, frozen=True, kw_only=True):
    """A user as a token names them; in demo mode without a token, `demo` is true and nothing expires."""

    user_id: str
    expires_at: datetime | None
    demo: bool = False


DEMO = Identity(user_id="demo", expires_at=None, demo=True)


class TokenVerifier:
    """Checks tokens. Asymmetric keys find their place beside the shared secret: the header's algorithm chooses."""

    def __init__(self, settings: Settings) -> None:
        self._secret = settings.better_auth_secret
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience

    def verify(self, token: str) -> Identity:
        """The identity in a token; raises `Unauthenticated` for one that is forged, bent, early or late."""
        if len(token) > MAX_TOKEN_BYTES:
            raise invalid_token("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != "HS256" or self._secret is None:
                raise invalid_token("the token's algorithm is not accepted here")
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={
                    "require": ["exp"],
                    "verify_aud": self._audience is not None,
                    "verify_sub": False,  # numbers are subjects, too: see user_id_of
                },
            )
            return Identity(user_id=user_id_of(claims), expires_at=datetime.fromtimestamp(claims["exp"], UTC))
        except jwt.ExpiredSignatureError:
            raise invalid_token("the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise invalid_token("the token is not valid yet") from None
        except jwt.InvalidIssuerError:
            raise invalid_token("the token is from another issuer") from None
        except jwt.InvalidAudienceError:
            raise invalid_token("the token is for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise invalid_token(f"the token has no {error.claim} claim") from None
        except (jwt.PyJWTError, ValueError, OverflowError, OSError):
            raise invalid_token("the token is malformed or its signature is wrong") from None

    def mint(self, user_id: str, lifetime: timedelta) -> str:
        """A development token; raises `Unauthenticated` where it would not be taken."""
        user_id_of({"sub": user_id})
        if self._secret is None:
            raise Unauthenticated("there is no BETTER_AUTH_SECRET to sign a token with")
        issued = datetime.now(UTC)
        claims: dict[str, Any] = {"sub": user_id, "iat": issued, "exp": issued + lifetime}
        claims |= {"iss": self._issuer} if self._issuer else {}
        claims |= {"aud": self._audience} if self._audience else {}
        return jwt.encode(claims, self._secret, algorithm="HS256")


def invalid_token(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, code="invalid_token")


def user_id_of(claims: dict[str, Any]) -> str:
    """The user of the first of `sub`, `userId`, `id` that is there; an integer counts as its decimal text."""
    for name in USER_CLAIMS:
        if (value := claims.get(name)) is not None:
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and 1 <= len(value) <= MAX_USER_ID and "\0" not in value:
                return value
            raise invalid_token(f"the token's {name} is not a user id of 1 to {MAX_USER_ID} characters")
    raise invalid_token("the token names no user in sub, userId or id")
