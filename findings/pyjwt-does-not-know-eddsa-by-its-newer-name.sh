#!/usr/bin/env bash
# PyJWT refuses a token whose header calls EdDSA by the name that RFC 9864 gives it, and a key that does.
#
# Seen 2026-11-29: PyJWT 2.15.1, cryptography 50.0.2, Python 3.11.
# The signature is the same, but "Ed25519" is no algorithm of its table: such a JWK raises PyJWKError, and a token whose
# header says so is an InvalidAlgorithmError, with the key given as a JWK or as it is.
# One would think that a name that has been in the IANA registry since 2025, for what it does anyway, is taken.
# Here: src/chatapi/auth/keys.py has it as a synonym, and auth/tokens.py names the key after the header.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet pyjwt==2.15.1 cryptography==50.0.2
cat >seen.py <<'PY'
import base64
import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


private = Ed25519PrivateKey.generate()
jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)


def signed(algorithm):
    parts = {"alg": algorithm, "typ": "JWT"}, {"sub": "alice", "exp": int(time.time()) + 60}
    text = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{text}.{base64url(private.sign(text.encode()))}"


def outcome(what):
    try:
        return what()
    except jwt.PyJWTError as error:
        return type(error).__name__


for name in ("EdDSA", "Ed25519"):
    print(name, "in a key:", outcome(lambda: jwt.PyJWK({**jwk, "alg": name}).algorithm_name))
    for kind, key in (("a JWK", jwt.PyJWK(jwk, "EdDSA")), ("as it is", private.public_key())):
        print(name, f"in a header, key {kind}:", outcome(lambda: jwt.decode(signed(name), key, algorithms=[name])["sub"]))
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
EdDSA in a key: EdDSA
EdDSA in a header, key a JWK: alice
EdDSA in a header, key as it is: alice
Ed25519 in a key: PyJWKError
Ed25519 in a header, key a JWK: InvalidAlgorithmError
Ed25519 in a header, key as it is: InvalidAlgorithmError
SEEN
