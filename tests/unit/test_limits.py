"""Windows and addresses, without a service."""

import time

import pytest
from limits import parse

from chatapi.limits.memory import OwnWindows
from chatapi.limits.middleware import network_of


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestOwnWindows:
    def test_let_no_more_than_the_limit_through_in_any_window(self, clock: Clock) -> None:
        windows = OwnWindows(parse("5/10 seconds"), clock)
        passed = []
        for _ in range(400):
            if windows.hit("alice").allowed:
                passed.append(clock.now)
            clock.now += 0.3
        assert all(later - earlier >= 10 for earlier, later in zip(passed, passed[5:], strict=False))
        assert len(passed) >= 5 * 12 - 5  # and not many fewer either

    def test_say_when_the_oldest_hit_gives_way(self, clock: Clock) -> None:
        windows = OwnWindows(parse("2/minute"), clock)
        first = windows.hit("alice")
        assert (first.allowed, first.remaining, first.reset) == (True, 1, 60)
        clock.now += 20
        second = windows.hit("alice")
        assert (second.allowed, second.remaining, second.reset) == (True, 0, 40)
        refused = windows.hit("alice")
        assert (refused.allowed, refused.remaining, refused.reset) == (False, 0, 40)
        clock.now += 40
        assert windows.hit("alice").allowed
        assert not windows.hit("alice").allowed

    def test_forget_callers_who_have_gone(self, clock: Clock) -> None:
        windows = OwnWindows(parse("2/minute"), clock)
        for number in range(1_000):
            windows.hit(f"user-{number}")
        assert len(windows) == 1_000
        clock.now += 59
        windows.hit("user-0")
        clock.now += 1
        windows.hit("alice")
        assert len(windows) == 2

    def test_take_the_last_hit_for_none(self, clock: Clock) -> None:
        windows = OwnWindows(parse("2/minute"), clock)
        windows.hit("alice")
        clock.now += 20
        windows.hit("alice")
        windows.give_back("alice")
        again = windows.hit("alice")
        assert (again.allowed, again.remaining, again.reset) == (True, 0, 40)

    def test_know_nobody_who_has_no_hit(self, clock: Clock) -> None:
        windows = OwnWindows(parse("2/minute"), clock)
        windows.hit("alice")
        windows.give_back("alice")
        windows.give_back("alice")
        assert len(windows) == 0
        clock.now += 61
        assert windows.hit("bob").allowed

    def test_cost_the_same_with_many_callers(self) -> None:
        windows = OwnWindows(parse("600/minute"))
        for number in range(20_000):
            windows.hit(f"user-{number}")
        began = time.process_time()
        for number in range(1_000):
            windows.hit(f"user-{number}")
        assert time.process_time() - began < 20  # the library's own storage goes through all callers for each


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", "local"),
        (None, "local"),
    ],
)
def test_an_address_stands_for_its_network(address: str | None, network: str) -> None:
    assert network_of(address) == network
