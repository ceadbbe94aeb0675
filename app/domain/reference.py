"""Reference data as the domain sees them: what is in force by key, and which keys cannot be read."""

from collections.abc import Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from models.events import AccountRegistered, HaltInForce, InstrumentListed, PriceUpdated
from models.values import EVERYBODY, Instrument, InstrumentStatus

Value = TypeVar("Value")
ACTIVE: Final = InstrumentStatus.ACTIVE  # found faster


class Known(NamedTuple, Generic[Value]):
    """Values in force, by key, as they are now.

    A key in `unreadable` (key: why) has a newer value that this build cannot read. `values` may still have an
    older one, which proves nothing: who decides by such a key refuses.
    """

    values: Mapping[str, Value]
    unreadable: Mapping[str, str]


class Reference(NamedTuple):
    """What risk decides by, beside the account's own books and limits."""

    accounts: Known[AccountRegistered]
    instruments: Known[InstrumentListed]
    halts: Known[HaltInForce]
    prices: Known[PriceUpdated]


def halted_by(halts: Known[HaltInForce], account_id: str) -> str | None:
    """Why the account may not trade: its own halt or everybody's. None: no halt, and none unreadable."""
    values, unreadable = halts
    if not values and not unreadable:
        return None
    for scope in (EVERYBODY, account_id):
        if scope in unreadable:
            return f"the halt of {scope} cannot be read: {unreadable[scope]}"
        halt = values.get(scope)
        if halt is not None and halt.halted:
            return f"{scope} is halted by {halt.who or 'nobody named'}: {halt.why or 'no reason given'}"
    return None


def untradable(instrument: Instrument, at_ms: int) -> str | None:
    """Why the instrument takes no orders at that time; None when it does."""
    if instrument.status is not ACTIVE:
        return f"it is {instrument.status}"
    valid_from_ms, valid_until_ms = instrument.valid_from_ms, instrument.valid_until_ms
    if valid_from_ms is not None and at_ms < valid_from_ms:
        return f"it is valid from {valid_from_ms} ms on"
    if valid_until_ms is not None and at_ms >= valid_until_ms:
        return f"it was valid until {valid_until_ms} ms"
    return None
