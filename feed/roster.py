"""Who trades: the names of all accounts, which also say how an account behaves."""

from typing import NamedTuple

STRANGER = "breaker-stranger"
"""Has no limits and is not registered: nobody knows this account."""

LIMITLESS = "breaker-limitless"
"""Is registered, and has no limits."""

UNREGISTERED = "breaker-unregistered"
"""Has limits, and is not registered."""

KILLED = "breaker-killed"
"""Its kill switch is on."""

SUSPENDED = "breaker-suspended"
"""Is registered, and suspended."""

CURRENCY = "breaker-currency"
"""Has its cash in another currency than the instruments'."""

NEWCOMER = "newcomer"
"""Is registered and has limits, and never trades by itself: for orders that somebody sends by hand."""

GARBAGE = tuple(f"garbage-{number:02d}" for number in range(4))
"""The keys under which broken records arrive; these accounts have no limits either."""


class Roster(NamedTuple):
    """The accounts by what they are up to."""

    traders: tuple[str, ...]
    breakers: tuple[str, ...]
    garbage: tuple[str, ...] = GARBAGE
    by_hand: tuple[str, ...] = ()


_KINDS = ("maker", "momentum", "maker", "reversion")


def trader_names(count: int) -> tuple[str, ...]:
    """`count` ordinary accounts: half of them makers, a quarter momentum, a quarter mean reversion."""
    return tuple(f"{_KINDS[number % len(_KINDS)]}-{number:02d}" for number in range(count))
