"""Forged and bent tokens: the aim of each, how it is made, and the reason that its refusal must give.

The service that gets them has every setting on that an attack could play off against another: a shared secret (HS256),
and the key set of an issuer with keys of all algorithms, among them keys that no token may be signed with.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from msgspec import Struct

from tests.support.issuer import ALGORITHMS, Issuer, SigningKey, base64url
from tests.support.serving import SECRET

SHAPE = "the token is not a signed JWT of at most 16384 bytes"
HEADER = "the token's header is malformed"
CRIT = "the token demands an extension that is not supported"
TYPE = "the token is of another type"
ALGORITHM = "the token's algorithm is not accepted here"
KEY = "the token is signed with a key that its issuer does not publish"
WRONG = "the token is malformed or its signature is wrong"
EXPIRED = "the token has expired"
EARLY = "the token is not valid yet"
ISSUER = "the token is from another issuer"
AUDIENCE = "the token is for another audience"
USER = "the token's sub is not a user id of 1 to 255 characters"

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, section 9.2, note 1


class World:
    """The issuer with its keys, and an impostor."""

    def __init__(self) -> None:
        self.keys = {algorithm: SigningKey(algorithm, f"key-{algorithm}") for algorithm in ALGORITHMS}
        self.spare = SigningKey("EdDSA", "spare", number=1)  # so that EdDSA without a kid is ambiguous
        self.unusable = {
            "p384": SigningKey("ES384", "p384"),
            "secp256k1": SigningKey("ES256K", "secp256k1"),
            "ed448": SigningKey("Ed448", "ed448"),
            "weak": SigningKey("RSA-1024", "weak"),
            "enc": SigningKey("RS256", "enc", number=1),
        }
        self.mallory = SigningKey("EdDSA", "mallory", number=2)
        self.mallory_rsa = SigningKey("RS256", "mallory-rsa", number=2)
        self.issuer = Issuer()
        self.evil_url = "http://127.0.0.1:1"

    @property
    def ed(self) -> SigningKey:
        return self.keys["EdDSA"]

    def key_set(self) -> list[dict[str, Any]]:
        good = [key.jwk() for key in (*self.keys.values(), self.spare)]
        changes: dict[str, dict[str, Any]] = {
            "ed448": {"alg": "EdDSA"},
            "weak": {"alg": "RS256"},
            "enc": {"use": "enc"},
        }
        bad = [key.jwk(**changes.get(name, {})) for name, key in self.unusable.items()]
        oct_key = {"kty": "oct", "kid": "oct", "alg": "HS256", "k": base64url(b"published" * 4)}
        return [*good, *bad, oct_key]

    def claims(self, **changes: Any) -> dict[str, Any]:
        return self.issuer.claims(**changes)

    def good(
        self, key: SigningKey | None = None, header: dict[str, Any] | None = None, /, **changes: Any
    ) -> str:
        """A token as the issuer would sign it, with these changes."""
        return (key or self.ed).token(header, **self.claims(**changes))

    def raw(self, header: Any, payload: Any, sign: Callable[[bytes], bytes]) -> str:
        """A token put together by hand: header and payload are JSON values, or raw bytes."""
        parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
        signed = ".".join(base64url(part) for part in parts)
        return f"{signed}.{base64url(sign(signed.encode()))}"

    def by_ed(self, header: Any, payload: Any = None) -> str:
        """A token put together by hand with the issuer's real signature: only its content can be wrong."""
        return self.raw(header, self.claims() if payload is None else payload, self.ed.private.sign)

    def saying(self, payload: bytes) -> str:
        return self.by_ed({"alg": "EdDSA", "kid": self.ed.kid}, payload)

    def headed(self, **header: Any) -> str:
        """A token of the issuer with this header, whose `alg` and `kid` are good unless changed."""
        return self.by_ed({"alg": "EdDSA", "kid": self.ed.kid, **header})

    def mac(self, key: bytes, **header: Any) -> str:
        """An HS256 token, signed with a key that is not the secret."""
        return self.raw(
            {"alg": "HS256", **header}, self.claims(), lambda data: hmac.digest(key, data, hashlib.sha256)
        )

    def signed_as(self, algorithm: str, signature: Callable[[bytes], bytes]) -> str:
        """A token that names the issuer's key of this algorithm and has another kind of signature."""
        return self.raw({"alg": algorithm, "kid": self.keys[algorithm].kid}, self.claims(), signature)

    def secretly(self, **changes: Any) -> str:
        """An HS256 token, signed with the shared secret."""
        return jwt.encode(self.claims(**changes), SECRET, algorithm="HS256")


class Attack(Struct, frozen=True):
    """One token: `tries` is its aim, and `refusal` is the detail of the 401, which says why it fails."""

    tries: str
    refusal: str
    token: Callable[[World], str]


def resigned(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{base64url(signature)}"


def signature_of(token: str) -> bytes:
    encoded = token.rpartition(".")[2]
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def pem(key: SigningKey) -> bytes:
    public: bytes = key.public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def der(key: SigningKey) -> bytes:
    public: bytes = key.public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def ecdsa_as_der(world: World) -> str:
    private = world.keys["ES256"].private
    return world.signed_as("ES256", lambda data: private.sign(data, ec.ECDSA(hashes.SHA256())))


def ecdsa_padded(world: World) -> str:
    """A signature whose r and s are each a byte longer, with the same values."""
    private = world.keys["ES256"].private

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(33) + s.to_bytes(33)

    return world.signed_as("ES256", sign)


def eddsa_with_another_s(world: World) -> str:
    """S + L satisfies the equation, but not RFC 8032, section 5.1.7."""
    signature = signature_of(world.good())
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    return resigned(world.good(), signature[:32] + s.to_bytes(32, "little"))


def pkcs1(key: SigningKey, algorithm: hashes.HashAlgorithm) -> Callable[[bytes], bytes]:
    return lambda data: key.private.sign(data, padding.PKCS1v15(), algorithm)


def pss(key: SigningKey, salt: int) -> Callable[[bytes], bytes]:
    return lambda data: key.private.sign(
        data, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256()
    )


def bleichenbacher(world: World) -> str:
    """PKCS #1 padding cut short with garbage after the hash: a cube root would do, if e were 3 and the check lax."""
    block = b"\0\1\xff\xff\xff\xff\xff\xff\xff\xff\0" + SHA256_INFO + b"h" * 32
    number = int.from_bytes(block.ljust(256, b"\xff"))
    root = 0
    for bit in reversed(range(683)):
        if (root | 1 << bit) ** 3 <= number:
            root |= 1 << bit
    return world.signed_as("RS256", lambda _: root.to_bytes(256))


def other_halves(world: World) -> str:
    """Alice's signature under Bob's claims."""
    header, _, signature = world.good().split(".")
    return ".".join([header, world.good(sub="bob").split(".")[1], signature])


def nested(world: World) -> str:
    return world.by_ed({"alg": "EdDSA", "kid": world.ed.kid, "cty": "JWT"}, world.good().encode())


def repeated(world: World, name: str, *values: Any) -> str:
    """A token with a claim several times; parsers differ in which one they see."""
    members = [json.dumps({key: value})[1:-1] for key, value in world.claims(**{name: ...}).items()]
    members += [json.dumps({name: value})[1:-1] for value in values]
    return world.saying(("{" + ",".join(members) + "}").encode())


def literally(world: World, name: str, literal: str) -> str:
    """A token with a claim whose value is this text in the JSON."""
    rest = json.dumps(world.claims(**{name: ...}))
    return world.saying(f'{rest[:-1]}, "{name}": {literal}}}'.encode())


def in_the_past(seconds: int) -> int:
    return int(time.time()) - seconds


SHAPES = {
    "not a token": Attack("anything at all", SHAPE, lambda w: "milk"),
    "empty": Attack("nothing at all", SHAPE, lambda w: ""),
    "three empty parts": Attack("defaults", SHAPE, lambda w: ".."),
    "two parts": Attack(
        "an unsecured JWT without its last dot", SHAPE, lambda w: w.good().rpartition(".")[0]
    ),
    "signature cut off": Attack(
        "taking what is unsigned", SHAPE, lambda w: w.good().rpartition(".")[0] + "."
    ),
    "payload cut out": Attack(
        "a detached payload (RFC 7515, appendix F)",
        SHAPE,
        lambda w: "..".join(w.good().split(".")[::2]),
    ),
    "four parts": Attack("a parser that counts from the other end", SHAPE, lambda w: "e30." + w.good()),
    "five parts": Attack(
        "being decrypted (RFC 8725, section 2.3)",
        SHAPE,
        lambda w: base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM"}') + ".a2V5.aXY.Y2lwaGVy.dGFn",
    ),
    "JSON serialisation": Attack(
        "another syntax (RFC 7515, section 7.2)",
        SHAPE,
        lambda w: json.dumps(
            dict(zip(("protected", "payload", "signature"), w.good().split("."), strict=True))
        ),
    ),
    "two tokens": Attack("the second being read", SHAPE, lambda w: f"{w.good()},{w.good(sub='bob')}"),
    "white space inside": Attack("a lax decoder", SHAPE, lambda w: w.good().replace(".", ". ")),
    "a tab inside": Attack("a lax decoder", SHAPE, lambda w: w.good().replace(".", ".\t")),
    "padded": Attack("a second spelling of one token", SHAPE, lambda w: w.good() + "=="),
    "another alphabet": Attack("a second spelling of one token", SHAPE, lambda w: "+/" + w.good()[2:]),
    "not ASCII": Attack("a decoder that fails", SHAPE, lambda w: "é.é.é"),
    "loose bits": Attack(
        "a second spelling: the last character's unused bits",
        WRONG,
        lambda w: (token := w.good())[:-1] + chr(ord(token[-1]) + 1),
    ),
    "not base64": Attack("a decoder that fails", HEADER, lambda w: "a." + w.good().partition(".")[2]),
    "over 16 KiB": Attack("work and memory", SHAPE, lambda w: w.good(name="n" * 17_000)),
    "nested JWT": Attack("the inner token being read (RFC 8725, section 3.3)", WRONG, nested),
}

HEADERS = {
    "header is a list": Attack("a type error", HEADER, lambda w: w.by_ed([])),
    "header is text": Attack("a type error", HEADER, lambda w: w.by_ed("EdDSA")),
    "header is not JSON": Attack("a parser that fails", HEADER, lambda w: w.by_ed(b"alg=EdDSA")),
    "header is not UTF-8": Attack("a parser that fails", HEADER, lambda w: w.by_ed(b'{"alg":"\xff"}')),
    "header in UTF-16": Attack(
        "a parser that guesses (RFC 8725, section 3.7)",
        HEADER,
        lambda w: w.by_ed('{"alg":"EdDSA"}'.encode("utf-16")),
    ),
    "header nested deeply": Attack("a stack overflow", HEADER, lambda w: w.by_ed(b'{"alg":' + b"[" * 9_000)),
    "alg twice": Attack(
        "a check and a use that see different ones",
        HEADER,
        lambda w: w.by_ed(f'{{"alg":"none","kid":"{w.ed.kid}","alg":"EdDSA"}}'.encode()),
    ),
    "no alg": Attack("a default", HEADER, lambda w: w.by_ed({"kid": w.ed.kid})),
    "alg is null": Attack("a default", HEADER, lambda w: w.headed(alg=None)),
    "alg is a number": Attack("a type error", HEADER, lambda w: w.headed(alg=1)),
    "alg is a list": Attack("a type error, or a choice", HEADER, lambda w: w.headed(alg=["none", "EdDSA"])),
    "kid is a number": Attack("a type error", HEADER, lambda w: w.headed(kid=0)),
    "kid is null": Attack("being taken for no kid", HEADER, lambda w: w.headed(kid=None)),
    "kid is an object": Attack("a query operator", HEADER, lambda w: w.headed(kid={"$ne": ""})),
    "an unknown critical extension": Attack(
        "being taken without it (RFC 7515, section 4.1.11)", CRIT, lambda w: w.headed(crit=["exp2"], exp2=1)
    ),
    "crit is empty": Attack("a lax check", CRIT, lambda w: w.headed(crit=[])),
    "crit is null": Attack("a lax check", CRIT, lambda w: w.headed(crit=None)),
    "payload not encoded": Attack(
        "another signing input (RFC 7797)", CRIT, lambda w: w.headed(b64=False, crit=["b64"])
    ),
    "payload not encoded, on the quiet": Attack(
        "the same, without its mark", WRONG, lambda w: w.headed(b64=False)
    ),
    "a session cookie by its type": Attack(
        "the same key's other use (Better Auth)",
        TYPE,
        lambda w: w.headed(typ="better-auth.session-cache+jwt"),
    ),
    "a logout token": Attack("another kind of JWT", TYPE, lambda w: w.headed(typ="logout+jwt")),
    "a DPoP proof": Attack("another kind of JWT", TYPE, lambda w: w.headed(typ="dpop+jwt")),
    "typ is a list": Attack("a type error", TYPE, lambda w: w.headed(typ=["JWT"])),
}


def unsigned(alg: str, signature: bytes = b"x") -> Callable[[World], str]:
    return lambda w: w.raw({"alg": alg, "kid": w.ed.kid}, w.claims(), lambda _: signature)


ALGORITHM_CONFUSION = {
    "none, and no signature": Attack("being unsecured", SHAPE, unsigned("none", b"")),
    "none": Attack("being unsecured", ALGORITHM, unsigned("none")),
    "None": Attack("being unsecured in another case", ALGORITHM, unsigned("None")),
    "NONE": Attack("being unsecured in another case", ALGORITHM, unsigned("NONE")),
    "nOnE": Attack("being unsecured in another case", ALGORITHM, unsigned("nOnE")),
    "alg is empty": Attack("a default", ALGORITHM, unsigned("")),
    "alg with a space": Attack("a lax comparison", ALGORITHM, unsigned("EdDSA ")),
    "eddsa": Attack("a lax comparison", ALGORITHM, lambda w: w.headed(alg="eddsa")),
    "hs256": Attack(
        "a lax comparison",
        ALGORITHM,
        lambda w: w.raw({"alg": "hs256"}, w.claims(), lambda d: hmac.digest(SECRET.encode(), d, "sha256")),
    ),
    "HS256 with the Ed25519 key's bytes": Attack(
        "the public key being taken for a secret", WRONG, lambda w: w.mac(w.ed.public.public_bytes_raw())
    ),
    "HS256 with the Ed25519 key's PEM": Attack("the same", WRONG, lambda w: w.mac(pem(w.ed), kid=w.ed.kid)),
    "HS256 with the RSA key's PEM": Attack(
        "the same (CVE-2015-9235)", WRONG, lambda w: w.mac(pem(w.keys["RS256"]), kid="key-RS256")
    ),
    "HS256 with the RSA key's PEM, without its last line end": Attack(
        "the same", WRONG, lambda w: w.mac(pem(w.keys["RS256"]).rstrip(), kid="key-RS256")
    ),
    "HS256 with the RSA key's DER": Attack(
        "the same", WRONG, lambda w: w.mac(der(w.keys["RS256"]), kid="key-RS256")
    ),
    "HS256 with the RSA key's modulus": Attack(
        "the same", WRONG, lambda w: w.mac(w.keys["RS256"].jwk()["n"].encode(), kid="key-RS256")
    ),
    "HS256 with the JWK": Attack(
        "the same", WRONG, lambda w: w.mac(json.dumps(w.keys["ES256"].jwk()).encode(), kid="key-ES256")
    ),
    "HS256 with the whole key set": Attack(
        "the same", WRONG, lambda w: w.mac(json.dumps({"keys": w.key_set()}).encode())
    ),
    "HS256 with an empty key": Attack("a secret that is not set", WRONG, lambda w: w.mac(b"")),
    "HS256 with a NUL": Attack("the key being /dev/null", WRONG, lambda w: w.mac(b"\0", kid="/dev/null")),
    "HS256 with a published symmetric key": Attack(
        "a key set that lists one", WRONG, lambda w: w.mac(b"published" * 4, kid="oct")
    ),
    "HS256 with another secret": Attack(
        "any secret", WRONG, lambda w: w.mac(b"another-secret-that-is-long-enough-too")
    ),
    "HS384 with the secret": Attack(
        "an algorithm nobody agreed on",
        ALGORITHM,
        lambda w: w.raw({"alg": "HS384"}, w.claims(), lambda d: hmac.digest(SECRET.encode(), d, "sha384")),
    ),
    "HS512 with the secret": Attack(
        "an algorithm nobody agreed on",
        ALGORITHM,
        lambda w: w.raw({"alg": "HS512"}, w.claims(), lambda d: hmac.digest(SECRET.encode(), d, "sha512")),
    ),
    "RS512 by the RS256 key": Attack(
        "an algorithm that is not the key's",
        ALGORITHM,
        lambda w: w.raw(
            {"alg": "RS512", "kid": "key-RS256"}, w.claims(), pkcs1(w.keys["RS256"], hashes.SHA512())
        ),
    ),
    "PS256 by the RS256 key": Attack(
        "an algorithm that is not the key's (RFC 8725, section 3.1)",
        KEY,
        lambda w: w.raw({"alg": "PS256", "kid": "key-RS256"}, w.claims(), pss(w.keys["RS256"], 32)),
    ),
    "RS256 by the PS256 key": Attack(
        "PKCS #1 v1.5 where PSS was decided",
        KEY,
        lambda w: w.raw(
            {"alg": "RS256", "kid": "key-PS256"}, w.claims(), pkcs1(w.keys["PS256"], hashes.SHA256())
        ),
    ),
    "RS256 under the EdDSA key's name": Attack(
        "a key of another type", KEY, lambda w: w.good(w.keys["RS256"], {"kid": w.ed.kid})
    ),
    "EdDSA under the RSA key's name": Attack(
        "a key of another type", KEY, lambda w: w.good(w.ed, {"kid": "key-RS256"})
    ),
    "ES256 under the P-521 key's name": Attack(
        "a key of another curve", KEY, lambda w: w.good(w.keys["ES256"], {"kid": "key-ES512"})
    ),
    "ES512 under the P-256 key's name": Attack(
        "a key of another curve", KEY, lambda w: w.good(w.keys["ES512"], {"kid": "key-ES256"})
    ),
    "ES384 by a published P-384 key": Attack(
        "an algorithm that is not ours", ALGORITHM, lambda w: w.good(w.unusable["p384"])
    ),
    "ES256K by a published secp256k1 key": Attack(
        "an algorithm that is not ours", ALGORITHM, lambda w: w.good(w.unusable["secp256k1"])
    ),
    "Ed448 by a published key": Attack(
        "EdDSA on another curve",
        KEY,
        lambda w: w.raw({"alg": "EdDSA", "kid": "ed448"}, w.claims(), w.unusable["ed448"].private.sign),
    ),
    "RSA of 1024 bits": Attack(
        "a published key that can be factored",
        KEY,
        lambda w: w.raw(
            {"alg": "RS256", "kid": "weak"}, w.claims(), pkcs1(w.unusable["weak"], hashes.SHA256())
        ),
    ),
    "by the encryption key": Attack(
        "a published key's other use",
        KEY,
        lambda w: w.raw(
            {"alg": "RS256", "kid": "enc"}, w.claims(), pkcs1(w.unusable["enc"], hashes.SHA256())
        ),
    ),
    "dir": Attack("an algorithm for encryption", ALGORITHM, unsigned("dir")),
    "RSA-OAEP": Attack("an algorithm for encryption", ALGORITHM, unsigned("RSA-OAEP")),
    "PBES2": Attack(
        "millions of hash rounds (CVE-2022-36083)",
        ALGORITHM,
        lambda w: w.headed(alg="PBES2-HS256+A128KW", p2c=2**31),
    ),
}


def by_mallory(**header: Any) -> Callable[[World], str]:
    return lambda w: w.good(w.mallory, header)


KEYS = {
    "an invented kid": Attack("any key", KEY, by_mallory()),
    "the issuer's kid, another's key": Attack(
        "a check of the name alone", WRONG, by_mallory(kid="key-EdDSA")
    ),
    "an empty kid": Attack("being taken for no kid", KEY, lambda w: w.good(w.ed, {"kid": ""})),
    "no kid, and two keys fit": Attack("one of them being tried", KEY, lambda w: w.good(w.ed, {"kid": None})),
    "no kid, another's key": Attack(
        "the only key that fits", WRONG, lambda w: w.good(w.mallory_rsa, {"kid": None})
    ),
    "kid in another case": Attack("a lax comparison", KEY, lambda w: w.good(w.ed, {"kid": "KEY-EDDSA"})),
    "kid walks the file system": Attack("a file's contents", KEY, by_mallory(kid="../../../../dev/null")),
    "kid is SQL": Attack("a database's contents", KEY, by_mallory(kid="' UNION SELECT 'key' --")),
    "kid is a command": Attack("a shell", KEY, by_mallory(kid="| id")),
    "kid is an address": Attack("a fetch from there", KEY, by_mallory(kid="http://169.254.169.254/latest")),
    "kid has a NUL": Attack(
        "a comparison that ends early", KEY, lambda w: w.good(w.ed, {"kid": "key-EdDSA\0"})
    ),
    "kid has half a character": Attack("an encoder that fails", KEY, by_mallory(kid="\ud800")),
    "kid is very long": Attack("work and memory", KEY, by_mallory(kid="k" * 11_000)),
    "kid would break a log line": Attack(
        "an entry of its own", KEY, by_mallory(kid="x\r\nlevel=info user=root")
    ),
    "jwk": Attack(
        "its own key being taken (CVE-2018-0114)",
        KEY,
        lambda w: w.good(w.mallory, {"jwk": w.mallory.jwk()}),
    ),
    "jwk under the issuer's kid": Attack(
        "its own key being taken",
        WRONG,
        lambda w: w.good(w.mallory, {"jwk": w.mallory.jwk(), "kid": "key-EdDSA"}),
    ),
    "jku": Attack(
        "its own key set being fetched",
        KEY,
        lambda w: w.good(w.mallory, {"jku": f"{w.evil_url}/jwks"}),
    ),
    "jku under the issuer's kid": Attack(
        "its own key set being fetched",
        WRONG,
        lambda w: w.good(w.mallory, {"jku": f"{w.evil_url}/jwks", "kid": "key-EdDSA"}),
    ),
    "jku by way of the issuer": Attack(
        "a prefix check",
        KEY,
        lambda w: w.good(w.mallory, {"jku": f"{w.issuer.url}@{w.evil_url.removeprefix('http://')}/jwks"}),
    ),
    "x5u": Attack(
        "its own certificate being fetched",
        KEY,
        lambda w: w.good(w.mallory_rsa, {"x5u": f"{w.evil_url}/certificate.pem"}),
    ),
    "x5c": Attack(
        "its own certificate being taken",
        KEY,
        lambda w: w.good(w.mallory_rsa, {"x5c": [base64.b64encode(der(w.mallory_rsa)).decode()]}),
    ),
}

SIGNATURES = {
    "zeros": Attack("a comparison that fails open", WRONG, lambda w: resigned(w.good(), bytes(64))),
    "one bit": Attack(
        "a sloppy check",
        WRONG,
        lambda w: resigned(token := w.good(), bytes([signature_of(token)[0] ^ 1, *signature_of(token)[1:]])),
    ),
    "cut short": Attack(
        "a prefix check", WRONG, lambda w: resigned(token := w.good(), signature_of(token)[:-1])
    ),
    "longer": Attack(
        "a prefix check", WRONG, lambda w: resigned(token := w.good(), signature_of(token) + b"\0")
    ),
    "one byte": Attack("a comparison of nothing", WRONG, lambda w: resigned(w.good(), b"\0")),
    "of another token": Attack("claims nobody signed", WRONG, other_halves),
    "header changed after": Attack(
        "a signature that does not cover it",
        WRONG,
        lambda w: ".".join(
            [base64url(b'{"alg":"EdDSA","kid":"key-EdDSA","typ":"JWT"}'), *w.good().split(".")[1:]]
        ),
    ),
    "EdDSA with S + L": Attack("a second signature of one token", WRONG, eddsa_with_another_s),
    "ES256 with r = s = 0": Attack(
        "psychic signatures (CVE-2022-21449)", WRONG, lambda w: w.signed_as("ES256", lambda _: bytes(64))
    ),
    "ES512 with r = s = 0": Attack(
        "psychic signatures (CVE-2022-21449)", WRONG, lambda w: w.signed_as("ES512", lambda _: bytes(132))
    ),
    "ES256 with r = s = n": Attack(
        "the same, modulo the order",
        WRONG,
        lambda w: w.signed_as("ES256", lambda _: P256_ORDER.to_bytes(32) * 2),
    ),
    "ES256 with r = s = 1": Attack(
        "a signature that needs no key", WRONG, lambda w: w.signed_as("ES256", lambda _: (1).to_bytes(32) * 2)
    ),
    "ES256 in DER": Attack("another encoding (RFC 7518, section 3.4)", WRONG, ecdsa_as_der),
    "ES256 with longer numbers": Attack("another encoding", WRONG, ecdsa_padded),
    "ES256 over SHA-1": Attack(
        "a weaker hash",
        WRONG,
        lambda w: w.signed_as(
            "ES256", lambda data: w.keys["ES256"].private.sign(data, ec.ECDSA(hashes.SHA1()))
        ),
    ),
    "RS256 of zero": Attack(
        "a signature that needs no key", WRONG, lambda w: w.signed_as("RS256", lambda _: bytes(256))
    ),
    "RS256 of one": Attack(
        "a signature that needs no key", WRONG, lambda w: w.signed_as("RS256", lambda _: (1).to_bytes(256))
    ),
    "RS256 over SHA-1": Attack(
        "a weaker hash",
        WRONG,
        lambda w: w.signed_as("RS256", pkcs1(w.keys["RS256"], hashes.SHA1())),
    ),
    "RS256 by PSS": Attack(
        "the other padding", WRONG, lambda w: w.signed_as("RS256", pss(w.keys["RS256"], 32))
    ),
    "RS256 with lax padding": Attack("Bleichenbacher's forgery (CVE-2006-4339)", WRONG, bleichenbacher),
    "RS256 with a zero before": Attack(
        "a second signature of one token",
        WRONG,
        lambda w: resigned(token := w.good(w.keys["RS256"]), b"\0" + signature_of(token)),
    ),
    "PS256 by PKCS #1 v1.5": Attack(
        "the other padding", WRONG, lambda w: w.signed_as("PS256", pkcs1(w.keys["PS256"], hashes.SHA256()))
    ),
    "PS256 without salt": Attack(
        "another salt length (RFC 7518, section 3.5)",
        WRONG,
        lambda w: w.signed_as("PS256", pss(w.keys["PS256"], 0)),
    ),
}

TIMES = {
    "expired": Attack("still being taken", EXPIRED, lambda w: w.good(exp=in_the_past(60))),
    "expired, by the secret": Attack("still being taken", EXPIRED, lambda w: w.secretly(exp=in_the_past(60))),
    "expires at 0": Attack("zero being no time", EXPIRED, lambda w: w.good(exp=0)),
    "expires before all time": Attack("a sign", EXPIRED, lambda w: w.good(exp=-1)),
    "no exp": Attack("living for ever", "the token has no exp claim", lambda w: w.good(exp=...)),
    "no exp, by the secret": Attack(
        "living for ever", "the token has no exp claim", lambda w: w.secretly(exp=...)
    ),
    "exp is null": Attack("living for ever", WRONG, lambda w: literally(w, "exp", "null")),
    "exp is text": Attack("a type error", WRONG, lambda w: w.good(exp="tomorrow")),
    "exp is a number as text": Attack("a type error", WRONG, lambda w: w.good(exp="99999999999")),
    "exp is true": Attack("being taken for a number", WRONG, lambda w: w.good(exp=True)),
    "exp is a list": Attack("a type error", WRONG, lambda w: w.good(exp=[99999999999])),
    "exp is NaN": Attack("comparing false with everything", WRONG, lambda w: literally(w, "exp", "NaN")),
    "exp is Infinity": Attack("living for ever", WRONG, lambda w: literally(w, "exp", "Infinity")),
    "exp is 1e999": Attack("infinity by overflow", WRONG, lambda w: literally(w, "exp", "1e999")),
    "exp beyond all dates": Attack("a conversion that fails", WRONG, lambda w: w.good(exp=10**18)),
    "exp with 5,000 digits": Attack(
        "a conversion that takes long", WRONG, lambda w: literally(w, "exp", "9" * 5_000)
    ),
    "not yet valid": Attack("being taken early", EARLY, lambda w: w.good(nbf=in_the_past(-300))),
    "nbf is null": Attack("being left out", WRONG, lambda w: literally(w, "nbf", "null")),
    "nbf is text": Attack("a type error", WRONG, lambda w: w.good(nbf="0")),
    "nbf is an object": Attack("a type error", WRONG, lambda w: w.good(nbf={})),
    "issued in the future": Attack("being taken early", EARLY, lambda w: w.good(iat=in_the_past(-300))),
    "iat is text": Attack("a type error", WRONG, lambda w: w.good(iat="now")),
}

ADDRESSES = {
    "no issuer": Attack("anybody's token", "the token has no iss claim", lambda w: w.good(iss=...)),
    "another issuer": Attack("anybody's token", ISSUER, lambda w: w.good(iss="https://evil.example")),
    "issuer and more": Attack("a prefix check", ISSUER, lambda w: w.good(iss=w.issuer.url + ".evil.example")),
    "issuer with a path": Attack("a prefix check", ISSUER, lambda w: w.good(iss=w.issuer.url + "/x")),
    "issuer by another scheme": Attack(
        "a host check", ISSUER, lambda w: w.good(iss=w.issuer.url.replace("http:", "https:"))
    ),
    "issuer in capitals": Attack("a lax comparison", ISSUER, lambda w: w.good(iss=w.issuer.url.upper())),
    "issuer with a NUL": Attack(
        "a comparison that ends early", ISSUER, lambda w: w.good(iss=w.issuer.url + "\0")
    ),
    "issuer is empty": Attack("being left out", ISSUER, lambda w: w.good(iss="")),
    "issuer is null": Attack("being left out", ISSUER, lambda w: literally(w, "iss", "null")),
    "issuer is a list": Attack(
        "one of several", ISSUER, lambda w: literally(w, "iss", json.dumps([w.issuer.url]))
    ),
    "no audience": Attack("being for everybody", "the token has no aud claim", lambda w: w.good(aud=...)),
    "another audience": Attack(
        "another service's token", AUDIENCE, lambda w: w.good(aud="https://other.example")
    ),
    "a session cookie": Attack(
        "the same key's other use (Better Auth)", AUDIENCE, lambda w: w.good(aud="better-auth:session-cache")
    ),
    "audience and more": Attack("a substring check", AUDIENCE, lambda w: w.good(aud=f"x {w.issuer.url} x")),
    "audience is empty": Attack("being left out", "the token has no aud claim", lambda w: w.good(aud="")),
    "no audience in the list": Attack(
        "being left out", "the token has no aud claim", lambda w: w.good(aud=[])
    ),
    "others in the list": Attack("any list", AUDIENCE, lambda w: w.good(aud=["a", "b"])),
    "something else in the list": Attack("a type error", AUDIENCE, lambda w: w.good(aud=[w.issuer.url, 5])),
    "a list in the list": Attack("a type error", AUDIENCE, lambda w: w.good(aud=[[w.issuer.url]])),
    "audience is an object": Attack("a membership check", AUDIENCE, lambda w: w.good(aud={w.issuer.url: 1})),
    "audience is a number": Attack("a type error", AUDIENCE, lambda w: w.good(aud=5)),
}

CLAIMS = {
    "claims are a list": Attack("a type error", WRONG, lambda w: w.saying(b"[]")),
    "claims are text": Attack("a type error", WRONG, lambda w: w.saying(b'"alice"')),
    "claims are null": Attack("a type error", WRONG, lambda w: w.saying(b"null")),
    "claims are not JSON": Attack("a parser that fails", WRONG, lambda w: w.saying(b"milk")),
    "claims are not UTF-8": Attack("a parser that fails", WRONG, lambda w: w.saying(b'{"sub":"\xff"}')),
    "claims in UTF-16": Attack(
        "a parser that guesses", WRONG, lambda w: w.saying(json.dumps(w.claims()).encode("utf-16"))
    ),
    "claims with something after": Attack(
        "a parser that stops early", WRONG, lambda w: w.saying(json.dumps(w.claims()).encode() + b"{}")
    ),
    "claims nested deeply": Attack("a stack overflow", WRONG, lambda w: literally(w, "x", "[" * 8_000)),
    "claims with a NaN": Attack(
        "a value that is not JSON (RFC 8259, section 6)", WRONG, lambda w: literally(w, "x", "NaN")
    ),
    "sub twice": Attack(
        "another reader seeing another user", WRONG, lambda w: repeated(w, "sub", "alice", "root")
    ),
    "exp twice": Attack(
        "another reader seeing another time", WRONG, lambda w: repeated(w, "exp", 1, 99999999999)
    ),
    "a name twice within": Attack(
        "a definition profile's claim", WRONG, lambda w: literally(w, "act", '{"sub":"a","sub":"b"}')
    ),
    "jti is a number": Attack("a type error", WRONG, lambda w: w.good(jti=7)),
    "no user": Attack("a default", "the token names no user in sub, userId or id", lambda w: w.good(sub=...)),
    "a session cookie by the secret": Attack(
        "the cookie cache of Better Auth, which is signed with the same secret",
        "the token names no user in sub, userId or id",
        lambda w: w.secretly(sub=..., user={"id": "alice"}, session={"userId": "alice"}),
    ),
    "user is empty": Attack("everybody's data, or nobody's", USER, lambda w: w.good(sub="")),
    "user is empty, and another follows": Attack(
        "the next claim", USER, lambda w: w.good(sub="", userId="bob")
    ),
    "user is a list": Attack("a type error", USER, lambda w: literally(w, "sub", '["alice"]')),
    "user is an object": Attack("a query operator", USER, lambda w: literally(w, "sub", '{"$ne": ""}')),
    "user is true": Attack("user 1", USER, lambda w: literally(w, "sub", "true")),
    "user is a fraction": Attack("rounding", USER, lambda w: literally(w, "sub", "1.5")),
    "user has 300 digits": Attack("a conversion", USER, lambda w: literally(w, "sub", "9" * 300)),
    "user with a NUL": Attack("a comparison that ends early", USER, lambda w: w.good(sub="a\0b")),
    "user with half a character": Attack("an encoder that fails", USER, lambda w: w.good(sub="a\ud800")),
    "user too long": Attack("being cut to another's id", USER, lambda w: w.good(sub="u" * 256)),
}

ATTACKS: dict[str, Attack] = {
    f"{group}: {name}": attack
    for group, attacks in {
        "shape": SHAPES,
        "header": HEADERS,
        "algorithm": ALGORITHM_CONFUSION,
        "key": KEYS,
        "signature": SIGNATURES,
        "time": TIMES,
        "address": ADDRESSES,
        "claims": CLAIMS,
    }.items()
    for name, attack in attacks.items()
}
