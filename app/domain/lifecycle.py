"""The life of an order: one table of which event takes it from which state to which.

Whoever asks whether an order is over, or whether an event may come now, asks here.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from models.events import Execution, OrderEvent, TradeExecuted


class OrderState(StrEnum):
    """Where an order is. The states that no event leads out of are its ends."""

    NEW = "new"
    APPROVED = "approved"
    """By risk; its exposure is reserved."""
    PENDING = "pending"
    """By compliance too; the venue may not have it yet."""
    OPEN = "open"
    PARTLY_FILLED = "partly filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    WITHHELD = "withheld"


LAST_FILL: Final = "TradeExecuted, nothing left"
"""A fill is of two kinds: whether it leaves anything open."""

_NEW, _APPROVED, _PENDING, _OPEN, _PARTLY, *_ = OrderState

TRANSITIONS: Final[Mapping[OrderState, Mapping[str, OrderState]]] = {
    _NEW: {"OrderRiskApproved": _APPROVED, "OrderRiskRejected": OrderState.REJECTED},
    _APPROVED: {"OrderComplianceApproved": _PENDING, "OrderComplianceRejected": OrderState.REJECTED},
    _PENDING: {
        "OrderAcknowledged": _OPEN,
        "VenueRejected": OrderState.REJECTED,
        "OrderWithheld": OrderState.WITHHELD,
    },
    _OPEN: {
        "TradeExecuted": _PARTLY,
        LAST_FILL: OrderState.FILLED,
        "OrderCancelled": OrderState.CANCELLED,
        "OrderExpired": OrderState.EXPIRED,
        "VenueRejected": OrderState.REJECTED,
    },
    _PARTLY: {
        "TradeExecuted": _PARTLY,
        LAST_FILL: OrderState.FILLED,
        "OrderCancelled": OrderState.CANCELLED,
        "OrderExpired": OrderState.EXPIRED,
    },
}

ENDS: Final = frozenset(OrderState) - TRANSITIONS.keys()
"""The states in which an order is over."""

AT_THE_VENUE: Final = (_PENDING, _OPEN, _PARTLY)

_ENDINGS: Final = frozenset(
    kind for row in TRANSITIONS.values() for kind, state in row.items() if state in ENDS
)

ENDED_UNFILLED: Final = frozenset(
    kind
    for state in AT_THE_VENUE
    for kind, after in TRANSITIONS[state].items()
    if after in ENDS and after is not OrderState.FILLED
)
"""The events that end an order which was on its way to the venue or there, but for its last fill."""


def kind_of(event: OrderEvent) -> str:
    """The name of an event in the table."""
    if isinstance(event, TradeExecuted) and event.leaves_lots == 0:
        return LAST_FILL
    return type(event).__name__


def state_after(state: OrderState, event: OrderEvent) -> OrderState | None:
    """The state that an event leads to; None when it can't come in this one."""
    return TRANSITIONS.get(state, {}).get(kind_of(event))


def ends(event: Execution) -> bool:
    """Whether the event ends its order, in whatever state that was."""
    return kind_of(event) in _ENDINGS
