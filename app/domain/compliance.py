"""Compliance: is the instrument allowed, was the same order just sent, would the account trade with itself?

Only approved orders count: one that was refused never reached the market, so that nothing can repeat it.
"""

from typing import Final

from app.domain.errors import InvariantBroken
from app.domain.fills import sequence_of
from app.domain.lifecycle import ends
from models.events import (
    Execution,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    OrderRiskApproved,
    OrderWithheld,
    RestrictionInForce,
    VenueReport,
)
from models.reasons import ComplianceReason
from models.values import Frozen, Side, TimeInForce

DUPLICATE_WITHIN_MS: Final = 1_000
RECENT_ORDERS_MAX: Final = 64


class RecentOrder(Frozen):
    """The last approved order of its kind: same symbol, side, quantity and price.

    `received_at_ms` is the broker's time of it, 0 in what the release wrote that went by the client's.
    """

    order_id: str
    submitted_at_ms: int
    received_at_ms: int = 0

    @property
    def at_ms(self) -> int:
        return self.received_at_ms or self.submitted_at_ms


class OpenOrder(Frozen):
    """An approved order that has not ended. `rests` is False for one that can't wait in the book."""

    symbol: str
    side: Side
    price_ticks: int
    rests: bool


class ComplianceAccount(Frozen):
    """What one account has sent and has open. Table `recent_orders`, key account, written by compliance.

    `recent` holds at most RECENT_ORDERS_MAX kinds of order, the last sent at its end, and forgets what came
    more than DUPLICATE_WITHIN_MS before the newest approval. `open_orders`, by order id, are as many as
    risk's limit allows. `last_sequence` is the last order judged, `last_venue_sequence` the last report that
    ended one: what is not above them is a repeat.
    """

    recent: dict[str, RecentOrder]
    open_orders: dict[str, OpenOrder]
    last_sequence: int = 0
    last_venue_sequence: int = 0


NEW_COMPLIANCE_ACCOUNT: Final = ComplianceAccount(recent={}, open_orders={})


def decide_compliance(
    approval: OrderRiskApproved,
    account: ComplianceAccount,
    restriction: RestrictionInForce | None,
    *,
    is_restriction_unreadable: bool = False,
) -> OrderComplianceApproved | OrderComplianceRejected:
    """Judge an order that risk approved; the first reason in the order of `ComplianceReason` wins.

    Restricted: SEC rule 15c3-5(c)(2)(ii); so is an instrument whose restriction cannot be read. Duplicate, an
    approved order of the same account, symbol, side, quantity and price within 1,000 ms by the broker's clock
    under another id: SEC rule 15c3-5(c)(1)(ii). Self-match, a price that meets an own resting order of the
    other side: FINRA rule 5210.02.
    """
    order = approval.order
    if is_restriction_unreadable or (restriction is not None and restriction.restricted):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.RESTRICTED_INSTRUMENT)
    if _repeats(approval, account.recent.get(_kind(order))):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.DUPLICATE_ORDER)
    if any(_crosses(order, resting) for resting in account.open_orders.values()):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.SELF_MATCH)
    return OrderComplianceApproved(order=order)


def is_judged(account: ComplianceAccount, approval: OrderRiskApproved) -> bool:
    """Whether the approval has come before: then it is not judged again."""
    return approval.order.sequence <= account.last_sequence


def apply_compliance(
    account: ComplianceAccount,
    approval: OrderRiskApproved,
    outcome: OrderComplianceApproved | OrderComplianceRejected,
) -> ComplianceAccount:
    """Fold a decision in: an approved order is recent and open, of a rejected one its sequence is kept."""
    order = approval.order
    if isinstance(outcome, OrderComplianceRejected):
        recent, open_orders = account.recent, account.open_orders
    else:
        opened = OpenOrder(
            symbol=order.symbol,
            side=order.side,
            price_ticks=order.price_ticks,
            rests=order.time_in_force is not TimeInForce.IOC,
        )
        recent = _with_recent(account.recent, approval)
        open_orders = {**account.open_orders, order.order_id: opened}
    return ComplianceAccount(
        recent=recent,
        open_orders=open_orders,
        last_sequence=order.sequence,
        last_venue_sequence=account.last_venue_sequence,
    )


def is_repeat(account: ComplianceAccount, event: Execution) -> bool:
    """Whether the report has come before, and its order has ended since: then it changes nothing.

    The venue numbers the reports of an account without going back. OrderWithheld has no number: it is a
    repeat if it ends an order that was judged and is not open.
    """
    if event.order_id in account.open_orders:
        return False
    if isinstance(event, OrderWithheld):
        return sequence_of(event) <= account.last_sequence
    return isinstance(event, VenueReport) and event.venue_sequence <= account.last_venue_sequence


def apply_execution(account: ComplianceAccount, event: Execution) -> ComplianceAccount:
    """Fold a report in: an order that ended no longer rests.

    Raises InvariantBroken for an order that is not open. `is_repeat` has to be asked before.
    """
    if event.order_id not in account.open_orders:
        raise InvariantBroken(
            f"{type(event).__name__} of order {event.order_id} of account {event.account_id}, "
            f"which compliance does not know as open"
        )
    if not ends(event):
        return account
    last_venue_sequence = account.last_venue_sequence
    if isinstance(event, VenueReport):
        last_venue_sequence = event.venue_sequence
    return ComplianceAccount(
        recent=account.recent,
        open_orders={
            order_id: order for order_id, order in account.open_orders.items() if order_id != event.order_id
        },
        last_sequence=account.last_sequence,
        last_venue_sequence=last_venue_sequence,
    )


def _kind(order: OrderReceived) -> str:
    return f"{order.symbol}/{order.side}/{order.quantity_lots}@{order.price_ticks}"


def _at_ms(approval: OrderRiskApproved) -> int:
    """The broker's time of the order; the client's where risk was of the release that did not tell it."""
    return approval.received_at_ms or approval.order.submitted_at_ms


def _repeats(approval: OrderRiskApproved, recent: RecentOrder | None) -> bool:
    return (
        recent is not None
        and recent.order_id != approval.order.order_id
        and abs(_at_ms(approval) - recent.at_ms) <= DUPLICATE_WITHIN_MS
    )


def _crosses(order: OrderReceived, resting: OpenOrder) -> bool:
    if not resting.rests or resting.symbol != order.symbol or resting.side is order.side:
        return False
    if order.side is Side.BUY:
        return order.price_ticks >= resting.price_ticks
    return order.price_ticks <= resting.price_ticks


def _with_recent(recent: dict[str, RecentOrder], approval: OrderRiskApproved) -> dict[str, RecentOrder]:
    order, kind = approval.order, _kind(approval.order)
    forgotten_before_ms = _at_ms(approval) - DUPLICATE_WITHIN_MS
    kept = {
        each_kind: each
        for each_kind, each in recent.items()
        if each.at_ms >= forgotten_before_ms and each_kind != kind
    }
    if len(kept) == RECENT_ORDERS_MAX:
        del kept[next(iter(kept))]
    kept[kind] = RecentOrder(
        order_id=order.order_id,
        submitted_at_ms=order.submitted_at_ms,
        received_at_ms=approval.received_at_ms,
    )
    return kept
