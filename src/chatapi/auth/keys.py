"""Selects the keys of a JWK Set (RFC 7517) that may check tokens, each for one algorithm (RFC 8725, section 3.1)."""

import logging

import jwt
import msgspec
from msgspec import Struct

log = logging.getLogger(__name__)

MAX_KEYS = 100  # an issuer lists a few; each is parsed on the event loop
MIN_RSA_BITS = 2048  # RFC 7518, sections 3.3 and 3.5

# By key type and curve. An RSA key serves one of two algorithms: RS256 unless it names the other.
ALGORITHMS = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-521"): ("ES512",),
    ("RSA", None): ("RS256", "PS256"),
}
# RFC 9864, section 2.2: the fully specified name, in a token's header or a key, means the same signature.
SYNONYMS = {"Ed25519": "EdDSA"}
ASYMMETRIC = frozenset(algorithm for algorithms in ALGORITHMS.values() for algorithm in algorithms)


class BadKeySet(ValueError):
    """The endpoint sent no JWK Set, or one without a usable key."""


class EmptyKeySet(BadKeySet):
    """A JWK Set without keys. Better Auth sends one once all its keys are past their grace, until it signs again."""


class KeySet(Struct):
    keys: list[msgspec.Raw]


class PublicJWK(Struct, kw_only=True, omit_defaults=True):
    """The members that matter, without private ones: a leaked private key is still used only for checking."""

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
    """The usable keys, without those for encryption, weak ones and unknown kinds. Raises `BadKeySet`."""
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
    """The key, bound to its algorithm; raises `ValueError` or `PyJWTError` with the reason if it is unusable."""
    jwk = msgspec.json.decode(entry, type=PublicJWK)
    algorithms = ALGORITHMS.get((jwk.kty, jwk.crv), ())
    if not algorithms:  # includes symmetric keys (oct): a published key is no secret
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
