"""Which keys of a JWK Set (RFC 7517) may check a token, and each by exactly one algorithm (RFC 8725, section 3.1)."""

import logging

import jwt
import msgspec
from msgspec import Struct

log = logging.getLogger(__name__)

MAX_KEYS = 100  # an issuer lists a few; each is parsed on the event loop
MIN_RSA_BITS = 2048  # RFC 7518, sections 3.3 and 3.5

# By key type and curve. An RSA key serves one of two, and is RS256's unless it says otherwise.
ALGORITHMS = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-521"): ("ES512",),
    ("RSA", None): ("RS256", "PS256"),
}
# The fully specified name of RFC 9864, section 2.2, in a token's header or a key, for what is the same signature.
SYNONYMS = {"Ed25519": "EdDSA"}
ASYMMETRIC = frozenset(algorithm for algorithms in ALGORITHMS.values() for algorithm in algorithms)


class BadKeySet(ValueError):
    """What the endpoint sent is no JWK Set, or none with a key that can be used."""


class EmptyKeySet(BadKeySet):
    """A JWK Set without keys. Better Auth has none when all of its keys are past their grace, until it signs again."""


class KeySet(Struct):
    keys: list[msgspec.Raw]


class PublicJWK(Struct, kw_only=True, omit_defaults=True):
    """The members that matter. Private ones are not among them: a key that leaked is still only checked with."""

    kty: str
    crv: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    kid: str | None = None
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None


def parse_key_set(document: bytes) -> tuple[jwt.PyJWK, ...]:
    """The usable keys; what is for encryption, weak, or of an unknown kind is left out. Raises `BadKeySet`."""
    try:
        entries = msgspec.json.decode(document, type=KeySet).keys
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadKeySet(f"it sent no JWK Set: {error}") from None
    if not entries:
        raise EmptyKeySet("it has no keys at the moment")
    if len(entries) > MAX_KEYS:
        raise BadKeySet(f"it sent {len(entries)} keys, and no issuer has more than {MAX_KEYS}")
    keys = []
    for position, entry in enumerate(entries):
        try:
            keys.append(usable_key(entry))
        except (ValueError, RecursionError, jwt.PyJWTError) as error:
            log.info("Key %d of the JWK Set is left out: %s", position, error)
    if not keys:
        raise BadKeySet("none of the keys that it sent can be used")
    return tuple(keys)


def usable_key(entry: msgspec.Raw) -> jwt.PyJWK:
    """The key, bound to its algorithm; raises `ValueError` or `PyJWTError` with the reason why it is of no use."""
    jwk = msgspec.json.decode(entry, type=PublicJWK)
    algorithms = ALGORITHMS.get((jwk.kty, jwk.crv), ())
    if not algorithms:  # symmetric keys (oct) among them: what is published is no secret
        raise ValueError("its type or curve is not one of ours")
    if jwk.use not in {None, "sig"} or "verify" not in (jwk.key_ops or ["verify"]):
        raise ValueError("it is not for signatures")
    algorithm = algorithms[0] if jwk.alg is None else SYNONYMS.get(jwk.alg, jwk.alg)
    if algorithm not in algorithms:
        raise ValueError("its algorithm is not one of ours")
    key = jwt.PyJWK(msgspec.to_builtins(jwk), algorithm)
    if jwk.kty == "RSA" and key.key.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key of {key.key.key_size} bits is too weak")
    return key
