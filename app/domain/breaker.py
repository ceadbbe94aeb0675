"""A circuit breaker: after failures in a row nobody calls for a while, then one call probes for all.

    closed ── failures_max in a row ──▶ open ── its time is over ──▶ half open: one probe
       ▲                                 ▲                               │
       └────────── it succeeds ──────────┼───────────────────────────────┤
                                         └────── it fails: longer ───────┘

The clock comes in as a value. An outcome counts only for the stretch its call was admitted in: a call that
was under way when the breaker opened neither closes it nor opens it again.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

Permit = NewType("Permit", int)
"""Proof that a call was admitted; never 0, so that it can be asked as a truth."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True)
class BreakerLimits:
    """`probe_ms_max` bounds the wait for a probe whose outcome never comes: then another one goes."""

    failures_max: int = 5
    open_ms_first: int = 200
    open_ms_max: int = 10_000
    probe_ms_max: int = 10_000

    def __post_init__(self) -> None:
        if min(self.failures_max, self.open_ms_first, self.probe_ms_max) < 1:
            raise ValueError(f"failures_max, open_ms_first and probe_ms_max are at least 1: {self!r}")
        if self.open_ms_max < self.open_ms_first:
            raise ValueError(f"open_ms_max is at least open_ms_first: {self!r}")


class CircuitBreaker:
    """One breaker for one thing that can fail; it is asked before each call and told how each one went."""

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self._limits = limits or BreakerLimits()
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._open_ms = 0
        self._waits_until_ms = 0  # open: for the probe; half open: for the probe's outcome
        self._stretch = 1

    @property
    def state(self) -> BreakerState:
        return self._state

    def wait_ms(self, now_ms: int) -> int:
        """How long until it is worth asking again; 0 when a call would be admitted now."""
        return 0 if self._state is BreakerState.CLOSED else max(0, self._waits_until_ms - now_ms)

    def allow(self, now_ms: int) -> Permit | None:
        """Admit a call, or return None. Once an open time is over exactly one caller gets through."""
        if self._state is BreakerState.CLOSED:
            return Permit(self._stretch)
        if now_ms < self._waits_until_ms:
            return None
        self._become(BreakerState.HALF_OPEN, waits_until_ms=now_ms + self._limits.probe_ms_max)
        return Permit(self._stretch)

    def succeeded(self, now_ms: int, permit: Permit) -> None:
        """The call admitted by `permit` worked: failures are forgotten, a probe closes the breaker."""
        if permit != self._stretch:
            return
        self._failures = 0
        self._open_ms = 0
        if self._state is not BreakerState.CLOSED:
            self._become(BreakerState.CLOSED, waits_until_ms=now_ms)

    def failed(self, now_ms: int, permit: Permit) -> None:
        """The call admitted by `permit` did not work; each opening in a row lasts twice as long."""
        if permit != self._stretch:
            return
        self._failures += 1
        if self._state is BreakerState.CLOSED and self._failures < self._limits.failures_max:
            return
        self._open_ms = min(self._open_ms * 2 or self._limits.open_ms_first, self._limits.open_ms_max)
        self._become(BreakerState.OPEN, waits_until_ms=now_ms + self._open_ms)

    def withdrawn(self, now_ms: int, permit: Permit) -> None:
        """The call admitted by `permit` has no outcome; if it was the probe, another one may go at once."""
        if permit == self._stretch and self._state is BreakerState.HALF_OPEN:
            self._waits_until_ms = now_ms

    def _become(self, state: BreakerState, *, waits_until_ms: int) -> None:
        self._state = state
        self._waits_until_ms = waits_until_ms
        self._stretch += 1
