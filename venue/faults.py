"""Faults on demand: what is to go wrong next. They end by themselves and do not outlive the process.

    hang_ms with requests or for_ms  the answers to the next `requests` calls, or to all calls of the next
                                     `for_ms`, come `hang_ms` late; the call itself is done at once
    drop_acks             the next n POST /orders or /requests are done, but the connection closes without an
                          answer
    duplicate_reports     the next n frames of reports are sent twice
    added_fields          the next n answers about orders or requests and frames of reports have a field that
                          nobody knows
    reject_next           the next n new orders are refused with REJECTED_ON_DEMAND
    reject_requests_next  the next n new requests to cancel or replace are refused with REJECTED_ON_DEMAND
    cancel_next           the next n new orders that come to rest are cancelled at once, although nobody asked
    unavailable_ms        for n ms every call is answered 503, and open report streams are cut
    error_rate_per_mille  n of 1,000 calls, evenly spread by a counter, are answered 500 and not done

0 takes a fault back. `POST /faults` itself is exempt from all of them; report streams never hang.
"""

from collections.abc import Callable
from typing import Literal, get_args

from venue.requests import FaultsRequest

Countdown = Literal[
    "drop_acks", "duplicate_reports", "added_fields", "reject_next", "reject_requests_next", "cancel_next"
]
COUNTDOWNS: tuple[Countdown, ...] = get_args(Countdown)


class Faults:
    """`clock_ms` is any clock that does not go back."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._left: dict[Countdown, int] = dict.fromkeys(COUNTDOWNS, 0)
        self._hang_ms = 0
        self._hang_requests = 0
        self._hang_until_ms = 0
        self._unavailable_until_ms = 0
        self._error_rate_per_mille = 0
        self._calls_counted = 0

    def set(self, wanted: FaultsRequest) -> None:
        for name in self._left:
            if (count := getattr(wanted, name)) is not None:
                self._left[name] = count
        if wanted.hang_ms is not None:
            self._hang_ms = wanted.hang_ms
            self._hang_requests = wanted.requests or 0
            self._hang_until_ms = self._clock_ms() + (wanted.for_ms or 0)
        if wanted.unavailable_ms is not None:
            self._unavailable_until_ms = self._clock_ms() + wanted.unavailable_ms
        if wanted.error_rate_per_mille is not None:
            self._error_rate_per_mille = wanted.error_rate_per_mille
            self._calls_counted = 0

    def left(self) -> dict[str, int]:
        """What is still to come, by the names above; durations in ms from now."""
        now_ms = self._clock_ms()
        return {
            **{str(name): count for name, count in self._left.items()},
            "hang_ms": self._hang_ms,
            "requests": self._hang_requests,
            "for_ms": max(0, self._hang_until_ms - now_ms),
            "unavailable_ms": max(0, self._unavailable_until_ms - now_ms),
            "error_rate_per_mille": self._error_rate_per_mille,
        }

    def take(self, name: Countdown) -> bool:
        """Whether this fault is due now; counts it down."""
        if not self._left[name]:
            return False
        self._left[name] -= 1
        return True

    def take_hang_ms(self) -> int:
        """How late the answer to this call is to come."""
        if self._hang_requests:
            self._hang_requests -= 1
            return self._hang_ms
        return self._hang_ms if self._clock_ms() < self._hang_until_ms else 0

    def take_error(self) -> bool:
        """Whether this call is to fail; counts it."""
        failed_before = self._calls_counted * self._error_rate_per_mille // 1_000
        self._calls_counted += 1
        return self._calls_counted * self._error_rate_per_mille // 1_000 > failed_before

    def is_unavailable(self) -> bool:
        return self._clock_ms() < self._unavailable_until_ms
