"""A good token is not checked again while everything that made it good still holds."""

import time
from datetime import timedelta
from typing import Any

import pytest

from chatapi.auth.jwks import JWKS, STALE_SECONDS
from chatapi.auth.tokens import MAX_VERIFIED, StrictJWT, TokenVerifier
from chatapi.errors.auth import Unauthenticated
from chatapi.patience import Patience
from tests.support.databases import unread_metrics
from tests.support.issuer import SigningKey, issuing
from tests.support.serving import SLOW_MACHINE, settings_for


class CountingJWT(StrictJWT):
    """Counts how often a signature is checked."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0

    def decode(self, *arguments: Any, **options: Any) -> Any:
        self.checks += 1
        return super().decode(*arguments, **options)


def counting(verifier: TokenVerifier) -> CountingJWT:
    verifier._claims = counter = CountingJWT()
    return counter


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(settings_for("sqlite:///unused"), Patience(), unread_metrics())


async def test_a_good_token_is_checked_once(verifier: TokenVerifier) -> None:
    counter = counting(verifier)
    mine, others = verifier.mint("alice", timedelta(hours=1)), verifier.mint("bob", timedelta(hours=1))
    for _ in range(3):
        assert (await verifier.verify(mine)).user_id == "alice"
        assert (await verifier.verify(others)).user_id == "bob"
    assert counter.checks == 2


async def test_a_bad_token_is_checked_each_time_and_never_taken(verifier: TokenVerifier) -> None:
    counter = counting(verifier)
    good = verifier.mint("alice", timedelta(hours=1))
    await verifier.verify(good)
    head, body, signature = good.split(".")
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await verifier.verify(f"{head}.{body}.{signature[:-2]}AA")
    assert counter.checks == 4


async def test_a_token_is_refused_once_it_has_expired(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused from the second in which PyJWT refuses it: a remembered token does not outlive its leeway."""
    counter = counting(verifier)
    token = verifier.mint("alice", timedelta(hours=1))
    expires_at = (await verifier.verify(token)).expires_at
    assert expires_at is not None
    end = expires_at.timestamp() + Patience().token_leeway
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: end - 1)
        await verifier.verify(token)
        assert counter.checks == 1
        patched.setattr(time, "time", lambda: end)
        await verifier.verify(token)  # good by the clock of PyJWT, which is not patched
    assert counter.checks == 2


async def test_a_token_is_refused_once_its_key_was_taken_back() -> None:
    async with issuing(old := SigningKey("EdDSA", number=1), new := SigningKey("EdDSA", number=2)) as issuer:
        clock = {"now": 0.0}
        verifier = TokenVerifier(
            settings_for("sqlite:///unused", better_auth_url=issuer.url), SLOW_MACHINE, unread_metrics()
        )
        url = f"{issuer.url}/api/auth/jwks"
        verifier._key_sets[url] = JWKS(url, SLOW_MACHINE, unread_metrics(), clock=lambda: clock["now"])
        counter = counting(verifier)
        of_old, of_new = issuer.token(old), issuer.token(new)
        for token in (of_old, of_new, of_old, of_new):
            assert (await verifier.verify(token)).user_id == "alice"
        assert counter.checks == 2
        issuer.keys.remove(old)
        clock["now"] += STALE_SECONDS + 1
        with pytest.raises(Unauthenticated, match="does not publish"):
            await verifier.verify(of_old)
        assert (await verifier.verify(of_new)).user_id == "alice"
        assert counter.checks == 3, "keys that were fetched anew are other keys, whatever their ids"
        await verifier.close()


async def test_what_is_remembered_is_bounded(verifier: TokenVerifier) -> None:
    counter = counting(verifier)
    minted = [verifier.mint(f"user-{number}", timedelta(hours=1)) for number in range(MAX_VERIFIED + 2)]
    for token in minted:
        await verifier.verify(token)
    assert len(verifier._verified) == MAX_VERIFIED
    await verifier.verify(minted[0])
    assert counter.checks == len(minted) + 1
