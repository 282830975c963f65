"""Our own issuer of tokens: its keys, and a real HTTP server for them that can also misbehave."""

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")
GENERATORS: dict[str, Callable[[], Any]] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ES256K": lambda: ec.generate_private_key(ec.SECP256K1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
    "X25519": x25519.X25519PrivateKey.generate,
}


class SigningKey:
    """A private key with its id. Each kind and number has one key in a test run."""

    def __init__(self, kind: str, kid: str | None = None, *, number: int = 0) -> None:
        self.kind = kind
        self.kid = kid or f"{kind}-{uuid4().hex}"
        self.private = generated(kind, number)
        self.public = self.private.public_key()

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public JWK as an issuer lists it, without the members that are changed to None."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            members = RSAAlgorithm.to_jwk(self.public, as_dict=True)
        elif isinstance(self.private, ec.EllipticCurvePrivateKey):
            members = ECAlgorithm.to_jwk(self.public, as_dict=True)
        elif isinstance(self.private, x25519.X25519PrivateKey):
            members = {"kty": "OKP", "crv": "X25519", "x": base64url(self.public.public_bytes_raw())}
        else:
            members = OKPAlgorithm.to_jwk(self.public, as_dict=True)
        members.pop("key_ops", None)
        members |= {"kid": self.kid, "alg": self.kind, **changes}
        return {name: value for name, value in members.items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, /, **claims: Any) -> str:
        """A token with these claims and no others, and without the members of the header that are None."""
        header = {"kid": self.kid, "typ": None, **(header or {})}
        header = {name: value for name, value in header.items() if value is not None or name == "typ"}
        return jwt.encode(claims, self.private, algorithm=self.kind, headers=header)


class Issuer:
    """Serves a JWK Set on a loopback port, counts the fetches, and answers as it is told to."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.answer: Answer = self.key_set
        self.fetches = 0
        self.requests: list[str] = []
        self.asked = asyncio.Event()
        self.released = asyncio.Event()
        self.url = ""

    async def key_set(self, writer: asyncio.StreamWriter) -> None:
        await self.send(writer, json.dumps({"keys": [key.jwk() for key in self.keys]}))

    def sends(self, body: str | bytes, status: str = "200 OK", **headers: str) -> None:
        """Answer with this from now on."""
        self.answer = lambda writer: self.send(writer, body, status, **headers)

    def sends_keys(self, *jwks: Any) -> None:
        self.sends(json.dumps({"keys": jwks}))

    def recovers(self) -> None:
        self.answer = self.key_set

    async def hangs(self, writer: asyncio.StreamWriter) -> None:
        """An answer for `self.answer`: it sends nothing until `released`, and then the answer of a healthy issuer."""
        await self.released.wait()
        await self.key_set(writer)

    async def drips(self, writer: asyncio.StreamWriter) -> None:
        """An answer for `self.answer`: one byte at a time, each within a client's time-out."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
        with suppress(ConnectionError):
            while not self.released.is_set():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)

    async def hangs_up(self, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def send(
        self, writer: asyncio.StreamWriter, body: str | bytes, status: str = "200 OK", **headers: str
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            self.asked.set()
            self.requests.append(request.split(b" ")[1].decode())
            await self.answer(writer)
        writer.close()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a Better Auth server at this address about Alice, without those that are `...`."""
        claims = {"sub": "alice", "iss": self.url, "aud": self.url, "exp": int(time.time()) + 900, **changes}
        return {name: value for name, value in claims.items() if value is not ...}

    def token(self, key: SigningKey | None = None, /, **changes: Any) -> str:
        return (key or self.keys[0]).token(**self.claims(**changes))


@asynccontextmanager
async def issuing(*keys: SigningKey) -> AsyncIterator[Issuer]:
    """An issuer that listens. It has one EdDSA key if none is given."""
    issuer = Issuer(*(keys or (SigningKey("EdDSA"),)))
    server = await asyncio.start_server(issuer.handle, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield issuer
    finally:
        issuer.released.set()
        server.close()
        await server.wait_closed()


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@cache
def generated(kind: str, number: int) -> Any:
    """A key of this kind and number. It is cached, because RSA keys take a while and tests can share them."""
    return GENERATORS[kind]()
