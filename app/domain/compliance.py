"""Compliance: is the instrument allowed, was the same order just sent, would the account trade with itself?

Only approved orders count: one that was refused never reached the market, so that nothing can repeat it.
"""

from typing import Final

from app.domain.errors import InvariantBroken
from models.events import (
    TERMINAL_REPORTS,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    TradeExecuted,
    VenueReport,
)
from models.reasons import ComplianceReason
from models.values import Frozen, Side, TimeInForce

DUPLICATE_WITHIN_MS: Final = 1_000
RECENT_ORDERS_MAX: Final = 64


class RecentOrder(Frozen):
    """The last approved order of its kind: same symbol, side, quantity and price."""

    order_id: str
    submitted_at_ms: int


class OpenOrder(Frozen):
    """An approved order that has not ended. `rests` is False for one that can't wait in the book."""

    symbol: str
    side: Side
    price_ticks: int
    rests: bool


class ComplianceAccount(Frozen):
    """What one account has sent and has open. Table `recent_orders`, key account, written by compliance.

    `recent` holds at most RECENT_ORDERS_MAX kinds of order, the last sent at its end, and forgets what was
    submitted more than DUPLICATE_WITHIN_MS before the newest approval. `open_orders`, by order id, are as
    many as risk's limit allows.
    """

    recent: dict[str, RecentOrder]
    open_orders: dict[str, OpenOrder]


NEW_COMPLIANCE_ACCOUNT: Final = ComplianceAccount(recent={}, open_orders={})


def decide_compliance(
    order: OrderReceived, account: ComplianceAccount, restricted: bool
) -> OrderComplianceApproved | OrderComplianceRejected:
    """Judge an order that risk approved; the first reason in the order of `ComplianceReason` wins.

    Restricted: SEC rule 15c3-5(c)(2)(ii). Duplicate, an approved order of the same account, symbol, side,
    quantity and price within 1,000 ms under another id: SEC rule 15c3-5(c)(1)(ii). Self-match, a price that
    meets an own resting order of the other side: FINRA rule 5210.02.
    """
    if restricted:
        return OrderComplianceRejected(order=order, reason=ComplianceReason.RESTRICTED_INSTRUMENT)
    if _repeats(order, account.recent.get(_kind(order))):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.DUPLICATE_ORDER)
    if any(_crosses(order, resting) for resting in account.open_orders.values()):
        return OrderComplianceRejected(order=order, reason=ComplianceReason.SELF_MATCH)
    return OrderComplianceApproved(order=order)


def apply_compliance(
    account: ComplianceAccount, outcome: OrderComplianceApproved | OrderComplianceRejected
) -> ComplianceAccount:
    """Fold a decision in: an approved order is recent and open, a rejected one leaves no trace."""
    if isinstance(outcome, OrderComplianceRejected):
        return account
    order = outcome.order
    opened = OpenOrder(
        symbol=order.symbol,
        side=order.side,
        price_ticks=order.price_ticks,
        rests=order.time_in_force is not TimeInForce.IOC,
    )
    return ComplianceAccount(
        recent=_with_recent(account.recent, order),
        open_orders={**account.open_orders, order.order_id: opened},
    )


def apply_execution(account: ComplianceAccount, event: VenueReport) -> ComplianceAccount:
    """Fold a report of the venue in: an order that ended no longer rests.

    Raises InvariantBroken for an order that is not open.
    """
    if event.order_id not in account.open_orders:
        raise InvariantBroken(
            f"{type(event).__name__} of order {event.order_id} of account {event.account_id}, "
            f"which compliance does not know as open"
        )
    ended = (
        event.leaves_lots == 0 if isinstance(event, TradeExecuted) else isinstance(event, TERMINAL_REPORTS)
    )
    if not ended:
        return account
    return ComplianceAccount(
        recent=account.recent,
        open_orders={
            order_id: order for order_id, order in account.open_orders.items() if order_id != event.order_id
        },
    )


def _kind(order: OrderReceived) -> str:
    return f"{order.symbol}/{order.side}/{order.quantity_lots}@{order.price_ticks}"


def _repeats(order: OrderReceived, recent: RecentOrder | None) -> bool:
    return (
        recent is not None
        and recent.order_id != order.order_id
        and abs(order.submitted_at_ms - recent.submitted_at_ms) <= DUPLICATE_WITHIN_MS
    )


def _crosses(order: OrderReceived, resting: OpenOrder) -> bool:
    if not resting.rests or resting.symbol != order.symbol or resting.side is order.side:
        return False
    if order.side is Side.BUY:
        return order.price_ticks >= resting.price_ticks
    return order.price_ticks <= resting.price_ticks


def _with_recent(recent: dict[str, RecentOrder], order: OrderReceived) -> dict[str, RecentOrder]:
    kind = _kind(order)
    forgotten_before_ms = order.submitted_at_ms - DUPLICATE_WITHIN_MS
    kept = {
        each_kind: each
        for each_kind, each in recent.items()
        if each.submitted_at_ms >= forgotten_before_ms and each_kind != kind
    }
    if len(kept) == RECENT_ORDERS_MAX:
        del kept[next(iter(kept))]
    kept[kind] = RecentOrder(order_id=order.order_id, submitted_at_ms=order.submitted_at_ms)
    return kept
