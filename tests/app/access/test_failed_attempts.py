"""Back-off of addresses with wrong keys."""

import pytest

from snf_app.access.authentication import FREE_ATTEMPTS, MAX_REMEMBERED, MAX_WAIT_S, WINDOW_S, FailedAttempts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> FailedAttempts:
    return FailedAttempts(clock)


def test_waits_begin_after_ten_and_double(attempts: FailedAttempts, clock: Clock) -> None:
    for _ in range(FREE_ATTEMPTS - 1):
        attempts.failed("10.0.0.1", "x")
        assert attempts.wait_s("10.0.0.1", "x") == 0
    waits = []
    for _ in range(9):
        attempts.failed("10.0.0.1", "x")
        waits.append(attempts.wait_s("10.0.0.1", "y"))
        clock.now += waits[-1]
        assert attempts.wait_s("10.0.0.1", "y") == 0
    assert waits == [1, 2, 4, 8, 16, 32, MAX_WAIT_S, MAX_WAIT_S, MAX_WAIT_S]


def test_an_address_is_forgotten(attempts: FailedAttempts, clock: Clock) -> None:
    for _ in range(FREE_ATTEMPTS - 1):
        attempts.failed("10.0.0.1", "x")
    clock.now += WINDOW_S
    assert attempts.failed("10.0.0.1", "x").wrong == 1


def test_others_do_not_wait(attempts: FailedAttempts) -> None:
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("10.0.0.1", "x")
    assert attempts.wait_s("10.0.0.2", "x") == 0


def test_a_key_that_was_right_stays_usable_from_its_address(attempts: FailedAttempts) -> None:
    attempts.succeeded("10.0.0.1", "right")
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("10.0.0.1", "wrong")
    assert attempts.wait_s("10.0.0.1", "right") == 0
    assert attempts.wait_s("10.0.0.1", "wrong") > 0
    attempts.failed("10.0.0.1", "right")  # revoked meanwhile
    assert attempts.wait_s("10.0.0.1", "right") > 0


def test_a_network_of_ipv6_is_one_address(attempts: FailedAttempts) -> None:
    for number in range(FREE_ATTEMPTS):
        attempts.failed(f"2001:db8::{number:x}", "x")
    assert attempts.wait_s("2001:db8::ffff:1", "x") > 0
    assert attempts.wait_s("2001:db8:0:1::1", "x") == 0
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("::ffff:10.0.0.9", "x")
    assert attempts.wait_s("10.0.0.9", "x") > 0
    assert attempts.wait_s("10.0.0.8", "x") == 0


def test_memory_is_bounded_and_wrong_keys_push_out_no_right_one(attempts: FailedAttempts) -> None:
    attempts.succeeded("10.0.0.1", "right")
    for number in range(3 * MAX_REMEMBERED):
        attempts.failed(f"10.1.{number // 256}.{number % 256}", "x")
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("10.0.0.1", "x")
    assert attempts.wait_s("10.0.0.1", "right") == 0
    assert len(attempts._addresses) == MAX_REMEMBERED
    for number in range(3 * MAX_REMEMBERED):
        attempts.succeeded("10.0.0.1", str(number))
    assert len(attempts._right) == MAX_REMEMBERED
