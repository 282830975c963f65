"""Which keys are taken, and when they are fetched: by a clock that only the test moves."""

import asyncio
import gzip
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from chatapi.auth.jwks import (
    FRESH_SECONDS,
    JWKS,
    MAX_BYTES,
    PAUSE_SECONDS,
    SEARCH_BURST,
    STALE_SECONDS,
)
from chatapi.auth.keys import MAX_KEYS, BadKeySet, parse_key_set
from chatapi.errors.auth import JWKSUnavailable
from tests.support.databases import unread_metrics
from tests.support.issuer import ALGORITHMS, Issuer, SigningKey, issuing
from tests.support.serving import SLOW_MACHINE

LOGGER = "chatapi.auth.jwks"
A_MINUTE = SLOW_MACHINE.keys_fetch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def keys_of(issuer: Issuer, clock: Clock) -> AsyncIterator[JWKS]:
    jwks = JWKS(f"{issuer.url}/jwks", SLOW_MACHINE, unread_metrics(), clock=clock)
    try:
        yield jwks
    finally:
        await jwks.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as found:
        yield found


async def has(jwks: JWKS, key: SigningKey) -> bool:
    return await jwks.find(key.kid, key.kind) is not None


class TestKeySet:
    def test_algorithm_comes_from_type_and_curve(self) -> None:
        for kind in ALGORITHMS:
            key = SigningKey(kind)
            (found,) = parse_key_set(json.dumps({"keys": [key.jwk()]}).encode())
            assert (found.algorithm_name, found.key_id) == (kind, key.kid)
            (found,) = parse_key_set(json.dumps({"keys": [key.jwk(alg=None)]}).encode())
            assert found.algorithm_name == ("RS256" if kind == "PS256" else kind)

    @pytest.mark.parametrize(
        ("why", "entry"),
        [
            ("for encryption", SigningKey("RS256").jwk(use="enc")),
            ("not for verifying", SigningKey("RS256").jwk(key_ops=["encrypt"])),
            ("too weak", SigningKey("RSA-1024").jwk(alg="RS256")),
            ("symmetric, and published", {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "oct"}),
            ("a curve of no algorithm of ours", SigningKey("ES384").jwk()),
            ("another curve", SigningKey("ES256K").jwk()),
            ("Ed448", SigningKey("Ed448").jwk(alg="EdDSA")),
            ("for key agreement", SigningKey("X25519").jwk(alg="EdDSA")),
            ("an algorithm that its type cannot do", SigningKey("ES256").jwk(alg="RS256")),
            ("an algorithm of another curve", SigningKey("ES256").jwk(alg="ES512")),
            ("a hash that is not ours", SigningKey("RS256").jwk(alg="RS512")),
            ("an RSA key for HS256", SigningKey("RS256").jwk(alg="HS256")),
            ("an algorithm for encryption", SigningKey("RS256").jwk(alg="RSA-OAEP")),
            ("an unknown type", {"kty": "quantum", "kid": "q"}),
            ("no type", {"kid": "?"}),
            ("a point that is not on the curve", SigningKey("ES256").jwk(x="AAAA", y="AAAA")),
            ("a coordinate missing", SigningKey("ES256").jwk(y=None)),
            ("not base64", SigningKey("EdDSA").jwk(x="***")),
            ("a key of the wrong length", SigningKey("EdDSA").jwk(x="AAAA")),
            ("members of other types", SigningKey("EdDSA").jwk(x=5)),
            ("a kid that is a number", SigningKey("EdDSA").jwk(kid=5)),
            ("not an object", "milk"),
        ],
    )
    def test_leaves_out_what_cannot_be_used_and_keeps_the_rest(self, why: str, entry: Any) -> None:
        good = SigningKey("EdDSA")
        for entries in ([entry, good.jwk()], [good.jwk(), entry]):
            found = parse_key_set(json.dumps({"keys": entries}).encode())
            assert [key.key_id for key in found] == [good.kid], why

    def test_takes_only_the_public_half_of_a_key_that_leaked(self) -> None:
        key = SigningKey("EdDSA")
        (found,) = parse_key_set(json.dumps({"keys": [key.jwk(d="AAAA")]}).encode())
        assert not hasattr(found.key, "sign")

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"<html>",
            b"[]",
            b"{}",
            b'{"keys": {}}',
            b'{"keys": []}',
            b'{"keys": ["milk"]}',
            b"\xff\xfe{",
            b'{"keys": ' + b"[" * 100_000,
            b'{"keys": [' + b",".join([b"{}"] * (MAX_KEYS + 1)) + b"]}",
        ],
    )
    def test_that_is_none_is_refused(self, document: bytes) -> None:
        with pytest.raises(BadKeySet):
            parse_key_set(document)


class TestFind:
    async def test_fetches_once_for_all(self, issuer: Issuer, clock: Clock) -> None:
        async with keys_of(issuer, clock) as jwks:
            assert all(await asyncio.gather(*(has(jwks, issuer.keys[0]) for _ in range(100))))
            assert await has(jwks, issuer.keys[0])
        assert issuer.fetches == 1

    async def test_a_kid_is_for_one_algorithm_and_no_new_set_will_change_that(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        async with keys_of(issuer, clock) as jwks:
            assert await has(jwks, issuer.keys[0])
            assert await jwks.find(issuer.keys[0].kid, "RS256") is None
        assert issuer.fetches == 1

    async def test_one_kid_for_two_types_of_key_is_told_apart_by_the_algorithm(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        issuer.keys = [SigningKey("RS256", "same"), SigningKey("ES256", "same")]
        async with keys_of(issuer, clock) as jwks:
            for algorithm in ("RS256", "ES256"):
                found = await jwks.find("same", algorithm)
                assert found is not None
                assert found.algorithm_name == algorithm

    async def test_without_a_kid_the_only_key_that_fits_is_meant(self, issuer: Issuer, clock: Clock) -> None:
        issuer.keys = [SigningKey("EdDSA", "a"), SigningKey("EdDSA", "b"), SigningKey("ES256", "c")]
        async with keys_of(issuer, clock) as jwks:
            found = await jwks.find(None, "ES256")
            assert found is not None
            assert found.key_id == "c"
            assert await jwks.find(None, "EdDSA") is None  # which of two?
            assert issuer.fetches == 1
            assert await jwks.find(None, "PS256") is None  # perhaps a new one
            assert issuer.fetches == 2

    async def test_a_new_key_is_found_at_once(self, issuer: Issuer, clock: Clock) -> None:
        async with keys_of(issuer, clock) as jwks:
            old, new = issuer.keys[0], SigningKey("ES256")
            assert await has(jwks, old)
            issuer.keys.append(new)
            assert await has(jwks, new)
            assert await has(jwks, old)
        assert issuer.fetches == 2

    async def test_a_stray_kid_before_a_rotation_costs_the_new_key_nothing(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        async with keys_of(issuer, clock) as jwks:
            assert await has(jwks, issuer.keys[0])
            for number in range(SEARCH_BURST - 1):
                assert await jwks.find(f"stray-{number}", "EdDSA") is None
            issuer.keys.append(SigningKey("EdDSA"))
            assert await has(jwks, issuer.keys[1])

    async def test_a_key_that_is_newer_than_the_fetch_under_way_is_found(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        old = {"keys": [issuer.keys[0].jwk()]}

        async def answers_late(writer: asyncio.StreamWriter) -> None:
            await issuer.released.wait()
            issuer.recovers()
            await issuer.send(writer, json.dumps(old))

        async with keys_of(issuer, clock) as jwks:
            assert await has(jwks, issuer.keys[0])
            issuer.answer = answers_late
            issuer.asked.clear()
            stray = asyncio.create_task(jwks.find("stray", "EdDSA"))
            await issuer.asked.wait()
            issuer.keys.append(SigningKey("EdDSA"))
            new = asyncio.create_task(has(jwks, issuer.keys[1]))
            await asyncio.sleep(0)  # it waits for the fetch that is under way
            issuer.released.set()
            assert await new
            assert await stray is None

    async def test_unknown_kids_cost_four_fetches_and_one_more_in_five_seconds(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        async with keys_of(issuer, clock) as jwks:
            assert await has(jwks, issuer.keys[0])
            for _ in range(SEARCH_BURST):
                found = await asyncio.gather(*(jwks.find(f"invented-{n}", "EdDSA") for n in range(500)))
                assert not any(found)
            assert issuer.fetches == 1 + SEARCH_BURST
            clock.now += PAUSE_SECONDS - 0.01
            new = SigningKey("EdDSA")
            issuer.keys.append(new)
            assert not await has(jwks, new)
            assert issuer.fetches == 1 + SEARCH_BURST
            clock.now += 0.01
            assert all(await asyncio.gather(*(has(jwks, new) for _ in range(10))))
            assert issuer.fetches == 2 + SEARCH_BURST
            clock.now += 3_600
            for number in range(2 * SEARCH_BURST):  # however long it was quiet
                await jwks.find(f"later-{number}", "EdDSA")
            assert issuer.fetches <= 3 + 2 * SEARCH_BURST

    async def test_an_empty_set_keeps_the_old_keys_and_is_asked_again(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        """Better Auth's set is empty from when all keys are past their grace until it signs the next token."""
        async with keys_of(issuer, clock) as jwks:
            old, new = issuer.keys[0], SigningKey("EdDSA")
            assert await has(jwks, old)
            issuer.keys = []
            clock.now += STALE_SECONDS + 1
            assert await has(jwks, old)
            issuer.keys = [new]
            assert await has(jwks, new)

    async def test_an_empty_set_before_the_first_key_is_asked_again(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        async with keys_of(issuer, clock) as jwks:
            new, issuer.keys = issuer.keys[0], []
            with pytest.raises(JWKSUnavailable):
                await jwks.find("stray", "EdDSA")
            issuer.keys = [new]
            assert await has(jwks, new)

    async def test_keys_are_renewed_with_age_and_nobody_waits(self, issuer: Issuer, clock: Clock) -> None:
        async with keys_of(issuer, clock) as jwks:
            old = issuer.keys[0]
            assert await has(jwks, old)
            issuer.keys = [SigningKey("EdDSA")]
            clock.now += FRESH_SECONDS
            assert await has(jwks, old)
            assert issuer.fetches == 1
            clock.now += 0.01
            issuer.answer = issuer.hangs
            assert await has(jwks, old)  # while the fetch is under way
            issuer.released.set()
            assert await has(jwks, issuer.keys[0])  # joins it
            assert not await has(jwks, old)  # revoked

    async def test_after_a_quiet_hour_the_first_request_waits(self, issuer: Issuer, clock: Clock) -> None:
        async with keys_of(issuer, clock) as jwks:
            old = issuer.keys[0]
            assert await has(jwks, old)
            issuer.keys = [SigningKey("EdDSA")]
            clock.now += STALE_SECONDS + 1
            assert not await has(jwks, old)

    async def test_a_caller_that_goes_away_takes_the_fetch_from_nobody(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        issuer.answer = issuer.hangs
        async with keys_of(issuer, clock) as jwks:
            impatient, patient = (asyncio.create_task(has(jwks, issuer.keys[0])) for _ in range(2))
            await issuer.asked.wait()
            impatient.cancel()
            issuer.released.set()
            assert await patient
        assert issuer.fetches == 1

    async def test_closing_ends_a_fetch_under_way(self, issuer: Issuer, clock: Clock) -> None:
        issuer.answer = issuer.hangs
        jwks = JWKS(f"{issuer.url}/jwks", SLOW_MACHINE, unread_metrics(), clock=clock)
        caller = asyncio.create_task(has(jwks, issuer.keys[0]))
        await issuer.asked.wait()
        await jwks.close()
        with pytest.raises(JWKSUnavailable):
            await caller
        assert issuer.fetches == 1


def redirects(issuer: Issuer) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        if issuer.requests[-1] == "/jwks":
            await issuer.send(writer, "", "302 Found", Location=f"{issuer.url}/elsewhere")
        else:
            await issuer.key_set(writer)

    issuer.answer = answer


TROUBLE: dict[str, Callable[[Issuer], None]] = {
    "500": lambda issuer: issuer.sends("oops", "500 Internal Server Error"),
    "204": lambda issuer: issuer.sends("", "204 No Content"),
    "redirects to a good set": redirects,
    "garbage": lambda issuer: issuer.sends("<html>Welcome</html>"),
    "empty": lambda issuer: issuer.sends_keys(),
    "too large": lambda issuer: issuer.sends_keys(issuer.keys[0].jwk(x5c="x" * MAX_BYTES)),
    "compressed, unasked": lambda issuer: issuer.sends(
        gzip.compress(json.dumps({"keys": [issuer.keys[0].jwk()]}).encode()), Content_Encoding="gzip"
    ),
    "a compressed bomb": lambda issuer: issuer.sends(
        gzip.compress(b" " * 100 * MAX_BYTES), Content_Encoding="gzip"
    ),
    "drips": lambda issuer: setattr(issuer, "answer", issuer.drips),
    "hangs": lambda issuer: setattr(issuer, "answer", issuer.hangs),
    "hangs up": lambda issuer: setattr(issuer, "answer", issuer.hangs_up),
}


def misbehave(issuer: Issuer, jwks: JWKS, how: str) -> None:
    TROUBLE[how](issuer)
    jwks._fetch_seconds = 1.0 if how in {"drips", "hangs"} else A_MINUTE


async def recover(issuer: Issuer, jwks: JWKS) -> None:
    """Let the issuer answer again, and give the next request's fetch enough time."""
    issuer.released.set()
    issuer.recovers()
    jwks._fetch_seconds = A_MINUTE
    with suppress(JWKSUnavailable):  # a slow machine may take longer than a request waits
        await has(jwks, issuer.keys[0])
    assert jwks._fetching
    await jwks._fetching


class TestTrouble:
    @pytest.mark.parametrize("how", TROUBLE)
    async def test_keeps_the_old_keys_and_is_logged(
        self, issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture, how: str
    ) -> None:
        async with keys_of(issuer, clock) as jwks:
            assert await has(jwks, issuer.keys[0])
            misbehave(issuer, jwks, how)
            with caplog.at_level(logging.WARNING, LOGGER):
                async with asyncio.timeout(SLOW_MACHINE.keys_fetch):
                    assert await jwks.find("invented", "EdDSA") is None
            assert issuer.fetches == 2
            assert re.search(r"were not fetched, and 1 old keys are kept: \S", caplog.text)
            clock.now += STALE_SECONDS + 1
            assert await has(jwks, issuer.keys[0])

    @pytest.mark.parametrize("how", TROUBLE)
    async def test_before_the_first_key_is_unavailable_for_five_seconds_without_asking_again(
        self, issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture, how: str
    ) -> None:
        async with keys_of(issuer, clock) as jwks:
            misbehave(issuer, jwks, how)
            for _ in range(20):
                with pytest.raises(JWKSUnavailable) as raised:
                    await has(jwks, issuer.keys[0])
                assert raised.value.retry_after == PAUSE_SECONDS
            tries = 1 + SEARCH_BURST if how == "empty" else 1
            assert issuer.fetches == tries
            assert len([record for record in caplog.records if record.name == LOGGER]) == tries
            clock.now += PAUSE_SECONDS
            await recover(issuer, jwks)
            assert await has(jwks, issuer.keys[0])

    async def test_that_lasts_keeps_nobody_waiting_for_it(self, issuer: Issuer, clock: Clock) -> None:
        """The issuer fails, then hangs: a request during the second fetch is told to come back later."""
        issuer.sends("", "503 Service Unavailable")
        async with keys_of(issuer, clock) as jwks:
            with pytest.raises(JWKSUnavailable):
                await has(jwks, issuer.keys[0])
            issuer.answer = issuer.hangs
            clock.now += PAUSE_SECONDS
            with pytest.raises(JWKSUnavailable) as raised:
                await has(jwks, issuer.keys[0])
            assert raised.value.retry_after == 1
            await recover(issuer, jwks)
            assert await has(jwks, issuer.keys[0])
        assert issuer.fetches == 2

    async def test_nobody_listening_is_unavailable(self, clock: Clock) -> None:
        async with issuing() as issuer:
            pass
        async with keys_of(issuer, clock) as jwks:
            with pytest.raises(JWKSUnavailable):
                await has(jwks, issuer.keys[0])
