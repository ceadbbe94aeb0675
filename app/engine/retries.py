"""What fails for a while is tried again: after pauses that grow, differ by chance, and have an upper limit.

`Pauses.until_done` repeats one call until it works (stamina's loop). A loop that is more than one call, as it
ends at a stop event or forgets old failures once it has run for a while, takes the pauses alone.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Final, NamedTuple, TypeVar

import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

log = logging.getLogger(__name__)

T = TypeVar("T")
Errors = type[Exception] | tuple[type[Exception], ...]

FAILURES_COUNTED_MAX: Final = 64
"""With so many the longest pause is reached; many more would be no number."""


class Pauses(NamedTuple):
    """The pause after the first failure is up to `first_s`; each further one up to `growth` times longer."""

    first_s: float
    most_s: float
    growth: float = 2.0

    def after(self, failures: int) -> float:
        """How long to wait after so many failures in a row, from 1 on: at least half of what it may be."""
        exponent = min(failures, FAILURES_COUNTED_MAX) - 1
        return min(self.most_s, self.first_s * self.growth**exponent) * random.uniform(0.5, 1.0)

    def in_turn(self) -> Iterator[float]:
        """The pauses after the first failure, the second, and so on."""
        return map(self.after, count(1))

    async def until_done(self, on: Errors, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await `attempt()` until it does not fail for one of the reasons `on`; cancellation ends it."""
        pauses = self.in_turn()

        def pause(error: Exception) -> bool | float:
            return next(pauses) if isinstance(error, on) else False

        async for each in stamina.retry_context(pause, attempts=None, timeout=None):
            with each:
                return await attempt()
        raise AssertionError("stamina gives up only where attempts or time have a limit")


def _say(details: RetryDetails) -> None:
    log.debug("trying again in %.2f s: %r", details.wait_for, details.caused_by)


set_on_retry_hooks([_say])  # in the place of stamina's own, which warn of each try and count it
