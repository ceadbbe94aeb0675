"""The life of an order: which event takes it from which state to which, and what is asked of it meanwhile.

Whoever asks whether an order is over, whether an event may come now, or whether it may be cancelled or
replaced, asks here. What is asked and not answered (`Pending`) goes on beside what is filled (`OrderState`):
a fill may come while a cancel is pending. Of both together the pending one is shown (`shown`), as in FIX 4.4,
volume 4, appendix D.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from models.events import Execution, OrderEvent, OrderReplaced, TradeExecuted


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


class Pending(StrEnum):
    """What is asked of an order and not answered. One replace at a time, and a cancel on top of it."""

    NOTHING = "nothing"
    REPLACE = "pending replace"
    CANCEL = "pending cancel"
    BOTH = "pending cancel and replace"


LAST_FILL: Final = "TradeExecuted, nothing left"
REPLACED_AS_FILLED: Final = "OrderReplaced, nothing left"
"""A fill and a replace are of two kinds each: whether they leave anything open."""

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
        "OrderReplaced": _OPEN,
    },
    _PARTLY: {
        "TradeExecuted": _PARTLY,
        LAST_FILL: OrderState.FILLED,
        "OrderCancelled": OrderState.CANCELLED,
        "OrderExpired": OrderState.EXPIRED,
        "OrderReplaced": _PARTLY,
        REPLACED_AS_FILLED: OrderState.FILLED,
    },
}

_REPLACE_ANSWERED: Final = (
    "OrderReplaced",
    REPLACED_AS_FILLED,
    "ReplaceRejected",
    "ReplaceWithheld",
    "ReplaceComplianceRejected",
)

REQUESTS: Final[Mapping[Pending, Mapping[str, Pending]]] = {
    Pending.NOTHING: {"CancelAccepted": Pending.CANCEL, "ReplaceRiskApproved": Pending.REPLACE},
    Pending.REPLACE: {
        "CancelAccepted": Pending.BOTH,
        **dict.fromkeys(_REPLACE_ANSWERED, Pending.NOTHING),
    },
    Pending.CANCEL: {"CancelRejected": Pending.NOTHING},
    Pending.BOTH: {
        "CancelRejected": Pending.REPLACE,
        **dict.fromkeys(_REPLACE_ANSWERED, Pending.CANCEL),
    },
}
"""What asks and what answers. An order's end answers the rest: nothing is pending of what is over."""

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
    if isinstance(event, TradeExecuted | OrderReplaced) and event.leaves_lots == 0:
        return LAST_FILL if isinstance(event, TradeExecuted) else REPLACED_AS_FILLED
    return type(event).__name__


def state_after(state: OrderState, event: OrderEvent) -> OrderState | None:
    """The state that an event leads to; None when it can't come in this one."""
    return TRANSITIONS.get(state, {}).get(kind_of(event))


def pending_after(pending: Pending, kind: str) -> Pending | None:
    """What is pending after an event of that name; None when it neither may be asked now nor answers."""
    return REQUESTS[pending].get(kind)


def shown(state: OrderState, pending: Pending) -> str:
    """The state that people are shown."""
    return state.value if state in ENDS or pending is Pending.NOTHING else pending.value


def ends(event: Execution) -> bool:
    """Whether the event ends its order, in whatever state that was."""
    return kind_of(event) in _ENDINGS
