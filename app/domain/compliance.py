"""Compliance: is the instrument allowed, was the same order just sent, would the account trade with itself?

Only approved orders count: one that was refused never reached the market, so that nothing can repeat it.
"""

from typing import Final, NamedTuple

from msgspec.structs import replace

from app.domain.errors import InvariantBroken
from app.domain.fills import sequence_of
from app.domain.lifecycle import ends
from app.domain.recent import DUPLICATE_WITHIN_MS, Recent, RecentOrder
from app.domain.resting import BUY, OpenOrder, Resting
from models.events import (
    CancelRejected,
    Execution,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    OrderReplaced,
    OrderRiskApproved,
    OrderWithheld,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceWithheld,
    RestrictionInForce,
    VenueReport,
)
from models.reasons import ComplianceReason
from models.values import Side, State, TimeInForce, maker

IOC: Final = TimeInForce.IOC  # found faster


class FormerRecent(State, frozen=True):
    """The last approved order of its kind, as version 1 of `recent_orders` had it.

    `received_at_ms` is the broker's time of it, 0 where risk did not tell that.
    """

    order_id: str
    submitted_at_ms: int
    received_at_ms: int = 0


class ComplianceAccount(State, frozen=True, omit_defaults=True):
    """How far compliance has come with an account. Table `recent_orders`, key account, written by compliance.

    `last_sequence` is the last order judged, `last_venue_sequence` the last report that ended one: what is
    not above them is a repeat. `recent`, by kind, and `open_orders`, by order id, are there in version 1
    alone: `moved` makes rows of their own of them.
    """

    last_sequence: int = 0
    last_venue_sequence: int = 0
    recent: dict[str, FormerRecent] | None = None
    open_orders: dict[str, OpenOrder] | None = None


class Remembered(NamedTuple):
    """What an account's next order is judged by, made of the rows of its recent and its open orders.

    It is edited as the rows are, so it is as good as what was last written: whoever takes a row back has to
    make it anew.
    """

    recent: Recent
    resting: Resting


NEW_COMPLIANCE_ACCOUNT: Final = ComplianceAccount()
_approved: Final = maker(OrderComplianceApproved)


def decide_compliance(
    approval: OrderRiskApproved,
    remembered: Remembered,
    restriction: RestrictionInForce | None,
    *,
    is_restriction_unreadable: bool = False,
) -> OrderComplianceApproved | OrderComplianceRejected:
    """Judge an order that risk approved; the first reason in the order of `ComplianceReason` wins.

    Restricted: SEC rule 15c3-5(c)(2)(ii); so is an instrument whose restriction cannot be read. Duplicate, an
    approved order of the same account, symbol, side, quantity and price within 1,000 ms by the broker's clock
    under another id: SEC rule 15c3-5(c)(1)(ii). Self-match, a price that meets an own resting order of the
    other side: FINRA rule 5210.02. It meets one if it meets the best.
    """
    order = approval.order
    if is_restriction_unreadable or (restriction is not None and restriction.restricted):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.RESTRICTED_INSTRUMENT)
    if repeats(approval, remembered.recent.get(_kind(order))):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.DUPLICATE_ORDER)
    if matches_own(order.symbol, order.side, order.price_ticks, remembered.resting):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.SELF_MATCH)
    return _approved(order=order)


def decide_replace(
    approval: ReplaceRiskApproved,
    opened: OpenOrder | None,
    remembered: Remembered,
    restriction: RestrictionInForce | None,
    *,
    is_restriction_unreadable: bool = False,
) -> ReplaceComplianceApproved | ReplaceComplianceRejected:
    """Judge a replace that risk approved, by the rules of an order but the one for duplicates.

    `opened` is the order's row, None once it has ended.
    """
    request = approval.request
    reason = None
    if opened is None:
        reason = ComplianceReason.ORDER_ENDED
    elif is_restriction_unreadable or (restriction is not None and restriction.restricted):
        reason = ComplianceReason.RESTRICTED_INSTRUMENT
    elif matches_own(approval.symbol, approval.side, request.price_ticks, remembered.resting):
        reason = ComplianceReason.SELF_MATCH
    if reason is not None:
        return ReplaceComplianceRejected(request=request, reason=reason)
    return ReplaceComplianceApproved(request=request, symbol=approval.symbol, side=approval.side)


def matches_own(symbol: str, side: Side, price_ticks: int, resting: Resting) -> bool:
    """Whether the price meets that of an order of the other side which the account has."""
    if side is BUY:
        best_ticks = resting.best_sell(symbol)
        return best_ticks is not None and price_ticks >= best_ticks
    best_ticks = resting.best_buy(symbol)
    return best_ticks is not None and price_ticks <= best_ticks


def is_judged(account: ComplianceAccount, sequence: int) -> bool:
    """Whether the approval with this number has come before: then it is not judged again."""
    return sequence <= account.last_sequence


def apply_compliance(account: ComplianceAccount, sequence: int) -> ComplianceAccount:
    """Fold a decision in, whatever it was: the order or replace is the last judged."""
    return ComplianceAccount(last_sequence=sequence, last_venue_sequence=account.last_venue_sequence)


def open_order(order: OrderReceived) -> OpenOrder:
    """The row of an order that was approved, until it ends."""
    return OpenOrder(
        symbol=order.symbol,
        side=order.side,
        price_ticks=order.price_ticks,
        rests=order.time_in_force is not IOC,
    )


def recent_order(approval: OrderRiskApproved) -> RecentOrder:
    """The row of an order that was approved, for as long as it can be repeated by mistake."""
    order = approval.order
    return RecentOrder(
        kind=_kind(order), order_id=order.order_id, at_ms=received_at_ms(approval), place=order.sequence
    )


def is_repeat(account: ComplianceAccount, opened: OpenOrder | None, event: Execution) -> bool:
    """Whether the report has come before, and its order, `opened`, has ended since: then it changes nothing.

    The venue numbers the reports of an account without going back. OrderWithheld has no number: it is a
    repeat if it ends an order that was judged and is not open. What became of a request may come after the
    order's end.
    """
    if opened is not None:
        return False
    if isinstance(event, CancelRejected | ReplaceRejected | ReplaceWithheld):
        return True
    if isinstance(event, OrderWithheld):
        return sequence_of(event) <= account.last_sequence
    return isinstance(event, VenueReport) and event.venue_sequence <= account.last_venue_sequence


def apply_execution(
    account: ComplianceAccount, opened: OpenOrder | None, event: Execution
) -> tuple[ComplianceAccount, OpenOrder | None]:
    """Fold a report in; the order is None once it has ended: it no longer rests.

    Raises InvariantBroken for an order that is not open. `is_repeat` has to be asked before.
    """
    if opened is None:
        raise InvariantBroken(
            f"{type(event).__name__} of order {event.order_id} of account {event.account_id}, "
            f"which compliance does not know as open"
        )
    if not ends(event):
        return account, _answered(opened, event)
    if isinstance(event, VenueReport):
        account = ComplianceAccount(
            last_sequence=account.last_sequence, last_venue_sequence=event.venue_sequence
        )
    return account, None


def _answered(opened: OpenOrder, event: Execution) -> OpenOrder:
    """The row with the replace answered that it waits for; as it is if the event does not do that."""
    if not isinstance(event, OrderReplaced | ReplaceRejected | ReplaceWithheld):
        return opened
    if event.request_id != opened.replace_id:
        return opened
    price_ticks = event.price_ticks if isinstance(event, OrderReplaced) else opened.price_ticks
    return replace(opened, price_ticks=price_ticks, replace_id=None, replace_price_ticks=0)


def replacing(opened: OpenOrder, request: ReplaceRequested) -> OpenOrder:
    """The row while the replace is on its way."""
    return replace(opened, replace_id=request.request_id, replace_price_ticks=request.price_ticks)


class Moved(NamedTuple):
    """What version 1 had in one value: the account itself, and what become rows."""

    account: ComplianceAccount
    recent: list[RecentOrder]
    open_orders: dict[str, OpenOrder]


def moved(account: ComplianceAccount) -> Moved | None:
    """The parts of a value of version 1; None where there is nothing to move.

    The places of the recent orders are below that of any order to come.
    """
    if account.recent is None and account.open_orders is None:
        return None
    recent = account.recent or {}
    rows = [
        RecentOrder(
            kind=kind, order_id=each.order_id, at_ms=each.received_at_ms or each.submitted_at_ms, place=place
        )
        for place, (kind, each) in enumerate(recent.items(), account.last_sequence - len(recent) + 1)
    ]
    after = ComplianceAccount(
        last_sequence=account.last_sequence, last_venue_sequence=account.last_venue_sequence
    )
    return Moved(after, rows, account.open_orders or {})


def _kind(order: OrderReceived) -> str:
    return f"{order.symbol}/{order.side}/{order.quantity_lots}@{order.price_ticks}"


def received_at_ms(approval: OrderRiskApproved) -> int:
    """The broker's time of the order; the client's where risk was of the release that did not tell it."""
    return approval.received_at_ms or approval.order.submitted_at_ms


def repeats(approval: OrderRiskApproved, recent: RecentOrder | None) -> bool:
    """Whether the order is the last one of its kind again, under another id."""
    return (
        recent is not None
        and recent.order_id != approval.order.order_id
        and abs(received_at_ms(approval) - recent.at_ms) <= DUPLICATE_WITHIN_MS
    )
