"""Checks bearer tokens and finds their user (RFC 7519, hardened by RFC 8725; docs/security.md). No framework here."""

import base64
import json
import re
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import jwt
from msgspec import Struct

from chatapi.auth.keys import ASYMMETRIC, SYNONYMS
from chatapi.errors.auth import Unauthenticated
from chatapi.leaving_out import left_out
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Issuer, Settings, SettingsError

if TYPE_CHECKING:
    from chatapi.auth.jwks import JWKS

MAX_TOKEN_BYTES = 16 * 1024  # Better Auth puts names of any length into a token; a header is limited
MAX_USER_ID = 255
MAX_VERIFIED = 4096  # remembered good tokens, about 1 kB each
USER_CLAIMS = ("sub", "userId", "id")
TIME_CLAIMS = ("exp", "nbf", "iat")
# RFC 7515, section 7.1: header, payload, signature; no padding, no white space, nothing after them.
COMPACT = re.compile(r"([\w-]+)\.[\w-]+\.[\w-]+", re.ASCII)
# RFC 8725, section 3.11. Better Auth's tokens have no type; its session cookies, logout tokens and the like do.
TYPES = {"jwt", "application/jwt", "at+jwt", "application/at+jwt"}
MALFORMED = "the token is malformed or its signature is wrong"
REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidIssuerError: "the token is from another issuer",
    jwt.InvalidAudienceError: "the token is for another audience",
}


class Identity(Struct, frozen=True, kw_only=True):
    """The user that a token names; in demo mode without a token, `demo` is true and nothing expires.

    `key_id` is there if the token is an API key.
    """

    user_id: str
    expires_at: datetime | None
    demo: bool = False
    key_id: int | None = None


DEMO = Identity(user_id="demo", expires_at=None, demo=True)


class Trust(Struct, frozen=True, kw_only=True):
    """The key and the values to check one token against. The key is bound to its one algorithm."""

    key: jwt.PyJWK
    issuers: Sequence[str] | None
    audiences: Sequence[str] | None


class Verified(Struct, frozen=True, kw_only=True):
    """A token that was found good, with the facts that this depended on."""

    identity: Identity
    header: dict[str, Any]
    issuer: Issuer | None
    key: jwt.PyJWK
    until: float


class TokenVerifier:
    """Checks tokens: HS256 with the shared secret, the rest with their issuer's published keys, as far as configured.

    A good token stays good until it expires, as long as its key is the same object that checked it. A newly fetched
    key set has new key objects, so a token of a revoked key is checked again.
    """

    def __init__(self, settings: Settings, patience: Patience, metrics: Metrics) -> None:
        self._settings = settings
        self._leeway = patience.token_leeway
        self._secret = secret_key(settings.better_auth_secret) if settings.better_auth_secret else None
        self._issuers = settings.issuers
        self._key_sets = key_sets({issuer.keys_url for issuer in self._issuers}, patience, metrics)
        self._claims = StrictJWT()
        # Keyed by the token's hash; the latest come last.
        self._verified: OrderedDict[bytes, Verified] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """The identity in a token; raises `Unauthenticated` for one that is forged, malformed, early or late.

        Raises `JWKSUnavailable` if the keys for the check have never been fetched.
        """
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        header = known.header if known is not None else read_header(token)
        issuer = known.issuer if known is not None else self._issuer_of(token, header)
        trust = await self._trust(header, issuer)
        if known is not None and known.key is trust.key and time.time() < known.until:
            return known.identity
        identity, until = self._check(token, header, trust)
        self._verified[digest] = Verified(
            identity=identity, header=header, issuer=issuer, key=trust.key, until=until
        )
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)
        return identity

    def _check(self, token: str, header: dict[str, Any], trust: Trust) -> tuple[Identity, float]:
        """The identity, and the time until which it is valid."""
        key = copy(trust.key)
        key.algorithm_name = header["alg"]  # PyJWT compares the two and knows no synonyms
        try:
            claims = self._claims.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=trust.issuers,
                audience=trust.audiences,
                leeway=self._leeway,
                options={
                    "require": ["exp"],
                    "verify_aud": trust.audiences is not None,
                    "verify_sub": False,  # numbers are valid subjects here: see user_id_of
                },
            )
            identity = Identity(
                user_id=user_id_of(claims), expires_at=datetime.fromtimestamp(claims["exp"], UTC)
            )
            return identity, int(claims["exp"]) + self._leeway
        except jwt.MissingRequiredClaimError as error:
            raise invalid_token(f"the token has no {error.claim} claim") from None
        except (jwt.PyJWTError, ValueError, OverflowError, OSError) as error:
            raise invalid_token(REASONS.get(type(error), MALFORMED)) from None

    def mint(self, user_id: str, lifetime: timedelta) -> str:
        """A development token; raises `Unauthenticated` for a user id that would be refused.

        Raises `SettingsError` if there is no shared secret to sign with.
        """
        user_id_of({"sub": user_id})
        if self._secret is None:
            raise SettingsError(
                "BETTER_AUTH_SECRET: is not set, so no token can be signed here; take one from the sign-in service"
            )
        issued = datetime.now(UTC)
        claims: dict[str, Any] = {"sub": user_id, "iat": issued, "exp": issued + lifetime}
        issuers, audiences = self._settings.jwt_issuers, self._settings.jwt_audiences
        claims |= {"iss": issuers[0]} if issuers else {}
        claims |= {"aud": audiences[0]} if audiences else {}
        return jwt.encode(claims, self._secret)

    async def close(self) -> None:
        for key_set in self._key_sets.values():
            await key_set.close()

    def _issuer_of(self, token: str, header: dict[str, Any]) -> Issuer | None:
        """The issuer whose keys check the token, and which must turn out to be its issuer; None for HS256.

        If there are several, it is the one that the token names: no issuer's keys may check another's tokens.
        """
        if self._is_by_secret(header):
            return None
        if SYNONYMS.get(header["alg"], header["alg"]) not in ASYMMETRIC or not self._issuers:
            raise invalid_token("the token's algorithm is not accepted here")
        if len(self._issuers) == 1:
            return self._issuers[0]
        try:
            named = unambiguous(base64.urlsafe_b64decode(token.split(".")[1] + "==")).get("iss")
        except (jwt.DecodeError, ValueError):
            raise invalid_token(MALFORMED) from None
        for issuer in self._issuers:
            if issuer.names is not None and named in issuer.names:
                return issuer
        raise invalid_token(REASONS[jwt.InvalidIssuerError])

    def _is_by_secret(self, header: dict[str, Any]) -> bool:
        return header["alg"] == "HS256" and self._secret is not None

    async def _trust(self, header: dict[str, Any], issuer: Issuer | None) -> Trust:
        """The header chooses the key; its `jku`, `jwk`, `x5u` and `x5c` are ignored."""
        if issuer is None:
            assert self._secret is not None  # noqa: S101 - see _issuer_of
            return Trust(
                key=self._secret,
                issuers=self._settings.jwt_issuers,
                audiences=self._settings.jwt_audiences,
            )
        algorithm = SYNONYMS.get(header["alg"], header["alg"])
        key = await self._key_sets[issuer.keys_url].find(header.get("kid"), algorithm)
        if key is None:
            raise invalid_token("the token is signed with a key that its issuer does not publish")
        return Trust(key=key, issuers=issuer.names, audiences=issuer.audiences)


class StrictJWT(jwt.PyJWT):
    """A strict PyJWT: no name may occur twice (RFC 7519, section 4), and times must be numbers (section 2)."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        claims = unambiguous(decoded["payload"])
        for name in TIME_CLAIMS:
            if name in claims and type(claims[name]) not in {int, float}:
                raise jwt.DecodeError(f"{name} is not a number")
        return claims


def read_header(token: str) -> dict[str, Any]:
    """The header of a text in the form of a token; nothing in it is trusted yet."""
    shape = COMPACT.fullmatch(token) if len(token) <= MAX_TOKEN_BYTES else None
    if shape is None:
        raise invalid_token(f"the token is not a signed JWT of at most {MAX_TOKEN_BYTES} bytes")
    try:
        header = unambiguous(base64.urlsafe_b64decode(shape[1] + "=="))
    except (jwt.DecodeError, ValueError):
        raise invalid_token("the token's header is malformed") from None
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise invalid_token("the token's header is malformed")
    if "crit" in header:  # RFC 7515, section 4.1.11: we understand no extension
        raise invalid_token("the token demands an extension that is not supported")
    if str(header.get("typ", "JWT")).lower() not in TYPES:
        raise invalid_token("the token is of another type")
    return header


def unambiguous(document: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 in which no name occurs twice; raises `DecodeError` or `ValueError`."""
    try:
        found = json.loads(document.decode(), object_pairs_hook=once_each, parse_constant=refuse)
    except RecursionError:
        raise jwt.DecodeError("nested too deeply") from None
    if not isinstance(found, dict):
        raise jwt.DecodeError("not an object")
    return found


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise jwt.DecodeError("a name comes twice")
    return members


def refuse(constant: str) -> None:
    raise jwt.DecodeError(f"{constant} is not JSON")


def secret_key(secret: str) -> jwt.PyJWK:
    encoded = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return jwt.PyJWK({"kty": "oct", "k": encoded}, "HS256")


def invalid_token(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, code="invalid_token")


def user_id_of(claims: dict[str, Any]) -> str:
    """The user id in the first of `sub`, `userId` and `id` that exists; an integer counts as its decimal text."""
    for name in USER_CLAIMS:
        if (value := claims.get(name)) is not None:
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            # Half a surrogate pair is not a character: no database and no answer could hold it.
            whole = isinstance(value, str) and not re.search(r"[\0\ud800-\udfff]", value)
            if whole and 1 <= len(value) <= MAX_USER_ID:
                return str(value)
            raise invalid_token(f"the token's {name} is not a user id of 1 to {MAX_USER_ID} characters")
    raise invalid_token("the token names no user in sub, userId or id")


def key_sets(urls: Collection[str], patience: Patience, metrics: Metrics) -> "dict[str, JWKS]":
    """Imports an HTTP client only where there are keys to fetch."""
    if not urls:
        return {}
    with left_out():
        from chatapi.auth.jwks import JWKS

    return {url: JWKS(url, patience, metrics) for url in urls}
