"""The circuit breaker: opens after failures in a row, probes once, waits longer each time."""

import pytest

from app.domain.breaker import BreakerLimits, BreakerState, CircuitBreaker, Permit

LIMITS = BreakerLimits(failures_max=3, open_ms_first=100, open_ms_max=350, probe_ms_max=1_000)


def admitted(breaker: CircuitBreaker, now_ms: int) -> Permit:
    permit = breaker.allow(now_ms)
    assert permit is not None
    return permit


def fail(breaker: CircuitBreaker, now_ms: int, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(now_ms, admitted(breaker, now_ms))


def an_open_breaker(now_ms: int = 0) -> CircuitBreaker:
    """A breaker that opened at `now_ms` for its first open time, 100 ms."""
    breaker = CircuitBreaker(LIMITS)
    fail(breaker, now_ms, times=3)
    return breaker


def test_a_closed_breaker_admits_every_call() -> None:
    breaker = CircuitBreaker(LIMITS)

    assert all(breaker.allow(0) for _ in range(100))
    assert breaker.wait_ms(0) == 0


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = CircuitBreaker(LIMITS)
    fail(breaker, 0, times=2)
    assert breaker.allow(0)

    fail(breaker, 0)

    assert breaker.state is BreakerState.OPEN
    assert breaker.allow(99) is None
    assert breaker.wait_ms(30) == 70


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = CircuitBreaker(LIMITS)
    for _ in range(10):
        fail(breaker, 0, times=2)
        breaker.succeeded(0, admitted(breaker, 0))

    assert breaker.state is BreakerState.CLOSED


def test_of_ten_calls_that_wait_one_goes_through() -> None:
    breaker = an_open_breaker()

    permits = [breaker.allow(100) for _ in range(10)]

    assert sum(permit is not None for permit in permits) == 1
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.wait_ms(100) == 1_000


def test_a_probe_that_succeeds_closes_it_for_all() -> None:
    breaker = an_open_breaker()
    breaker.succeeded(110, admitted(breaker, 100))

    assert breaker.state is BreakerState.CLOSED
    assert all(breaker.allow(110) for _ in range(10))
    assert breaker.wait_ms(110) == 0


def test_a_probe_that_fails_opens_it_twice_as_long_up_to_a_bound() -> None:
    breaker = an_open_breaker()
    now_ms, waits_ms = 0, [breaker.wait_ms(0)]
    for _ in range(4):
        now_ms += waits_ms[-1]
        fail(breaker, now_ms)
        waits_ms.append(breaker.wait_ms(now_ms))

    assert waits_ms == [100, 200, 350, 350, 350]


def test_once_closed_the_open_time_starts_again_at_the_first() -> None:
    breaker = an_open_breaker()
    fail(breaker, 100)
    breaker.succeeded(300, admitted(breaker, 300))
    fail(breaker, 400, times=3)

    assert breaker.wait_ms(400) == 100


def test_a_call_from_before_it_opened_neither_closes_nor_reopens_it() -> None:
    breaker = CircuitBreaker(LIMITS)
    slow = admitted(breaker, 0)
    fail(breaker, 0, times=3)

    breaker.succeeded(50, slow)
    breaker.failed(60, slow)
    assert (breaker.state, breaker.wait_ms(60)) == (BreakerState.OPEN, 40)

    admitted(breaker, 100)
    breaker.succeeded(101, slow)
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_probe_that_never_comes_back_is_replaced() -> None:
    breaker = an_open_breaker()
    lost = admitted(breaker, 100)
    assert breaker.allow(1_099) is None

    probe = admitted(breaker, 1_100)
    assert breaker.allow(1_100) is None
    breaker.failed(1_150, lost)
    breaker.succeeded(1_200, probe)

    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_is_withdrawn_makes_room_for_another_at_once() -> None:
    breaker = an_open_breaker()
    withdrawn = admitted(breaker, 100)
    breaker.withdrawn(150, withdrawn)
    assert breaker.wait_ms(150) == 0

    probe = admitted(breaker, 150)
    breaker.withdrawn(160, withdrawn)
    assert breaker.allow(160) is None
    breaker.succeeded(170, probe)

    assert breaker.state is BreakerState.CLOSED


def test_a_call_that_is_withdrawn_is_neither_success_nor_failure() -> None:
    breaker = CircuitBreaker(LIMITS)
    fail(breaker, 0, times=2)
    breaker.withdrawn(0, admitted(breaker, 0))
    assert breaker.state is BreakerState.CLOSED

    slow = admitted(breaker, 0)
    fail(breaker, 0)
    breaker.withdrawn(50, slow)

    assert breaker.wait_ms(50) == 50


@pytest.mark.parametrize(
    "wrong", [{"failures_max": 0}, {"open_ms_first": 0}, {"probe_ms_max": 0}, {"open_ms_max": 1}], ids=str
)
def test_limits_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        BreakerLimits(**wrong)
