"""I7, for compliance: no order is let through that meets an own resting one, or repeats one just sent.

Nor a replace whose price meets one. While a replace is on its way its order may rest at both prices.

What compliance has approved it knows, so its approvals alone tell which orders it has seen of late; how late,
the broker's clock tells, by which they were received. When an order has ended it learns later: one whose end
is logged after a decision was open when that was made.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from checker.findings import Findings
from checker.history import Slice, Traces, ends, of_kinds
from checker.records import (
    Logged,
    Order,
    OrderComplianceApproved,
    OrderReplaced,
    ReplaceComplianceApproved,
)
from models.values import Side, TimeInForce

I7 = "I7"
REPEAT_WITHIN_MS = 1_000
RECENT_KINDS_MAX = 64

Kind = tuple[str, Side, int, int]


class _Offer(NamedTuple):
    """What would be at the venue."""

    symbol: str
    side: Side
    price_ticks: int


class _Recent(NamedTuple):
    """An approved order, and when it was received."""

    order_id: str
    received_at_ms: int


def check_conduct(history: Slice, traces: Traces) -> Findings:
    """Replay what compliance has approved, account by account, in log order."""
    found = Findings()
    recent: dict[str, dict[Kind, _Recent]] = {}
    resting: dict[str, list[Order]] = {}
    for decision in _approvals(history):
        if isinstance(decision.event, ReplaceComplianceApproved):
            if history.quiet:  # else an end may be known that is not here
                _check_replace(decision.event, decision.timestamp_ms, resting, traces, found)
            continue
        if not isinstance(decision.event, OrderComplianceApproved):
            continue
        order = decision.event.order
        account = order.account_id
        received_at_ms = _received_at_ms(order, traces)
        if received_at_ms is not None and _is_repeat(order, received_at_ms, recent.setdefault(account, {})):
            found.violate(I7, "an order was approved that repeats one of the last second", order.order_id)
        if history.quiet:
            offer = _Offer(order.symbol, order.side, order.price_ticks)
            at_ms = decision.timestamp_ms
            open_still = list(_open_at(at_ms, resting.get(account, ()), traces))
            if _meets_any(offer, at_ms, open_still, traces):
                found.violate(I7, "an order was approved that meets an own resting one", order.order_id)
            rests = order.time_in_force is not TimeInForce.IOC
            resting[account] = [*open_still, order] if rests else open_still
    return found


Approval = OrderComplianceApproved | ReplaceComplianceApproved


def _approvals(history: Slice) -> Iterable[Logged[Approval]]:
    return of_kinds(
        (OrderComplianceApproved, ReplaceComplianceApproved), history.compliance, history.asked_compliance
    )


def _check_replace(
    approval: ReplaceComplianceApproved,
    at_ms: int,
    resting: dict[str, list[Order]],
    traces: Traces,
    found: Findings,
) -> None:
    request = approval.request
    offer = _Offer(approval.symbol, approval.side, request.price_ticks)
    open_still = _open_at(at_ms, resting.get(request.account_id, ()), traces)
    if _meets_any(offer, at_ms, open_still, traces):
        found.violate(I7, "a replace was approved that meets an own resting order", request.request_id)


def _received_at_ms(order: Order, traces: Traces) -> int | None:
    trace = traces.get(order.order_id)
    return trace.received.timestamp_ms if trace and trace.received else None


def _is_repeat(order: Order, received_at_ms: int, recent: dict[Kind, _Recent]) -> bool:
    """Whether it is one, as far as compliance has to remember; `recent` then has the order as its last."""
    kind = (order.symbol, order.side, order.quantity_lots, order.price_ticks)
    before = recent.pop(kind, None)
    for old, other in list(recent.items()):
        if other.received_at_ms < received_at_ms - REPEAT_WITHIN_MS:
            del recent[old]
    while len(recent) >= RECENT_KINDS_MAX:
        del recent[next(iter(recent))]
    recent[kind] = _Recent(order.order_id, received_at_ms)
    return (
        before is not None
        and before.order_id != order.order_id
        and abs(received_at_ms - before.received_at_ms) <= REPEAT_WITHIN_MS
    )


def _open_at(timestamp_ms: int, orders: Iterable[Order], traces: Traces) -> Iterator[Order]:
    for order in orders:
        trace = traces.get(order.order_id)
        reports = trace.executions if trace else []
        if not any(ends(each.event) and each.timestamp_ms <= timestamp_ms for each in reports):
            yield order


def _meets_any(offer: _Offer, at_ms: int, resting: Iterable[Order], traces: Traces) -> bool:
    return any(
        _meets(offer, price_ticks)
        for order in resting
        if order.symbol == offer.symbol and order.side is not offer.side
        for price_ticks in _prices_at(order, at_ms, traces)
    )


def _prices_at(order: Order, at_ms: int, traces: Traces) -> Iterator[int]:
    """The price in force by then, and those of replaces let through by then and not answered."""
    price_ticks = order.price_ticks
    trace = traces.get(order.order_id)
    for report in trace.reports if trace else ():
        if isinstance(report.event, OrderReplaced) and report.timestamp_ms <= at_ms:
            price_ticks = report.event.price_ticks
    yield price_ticks
    for asking in traces.requests.of(order.order_id):
        passed = asking.passed
        was_passed = bool(asking.judged) and asking.judged[0].timestamp_ms <= at_ms
        if isinstance(passed, ReplaceComplianceApproved) and was_passed and asking.is_pending(at_ms):
            yield passed.request.price_ticks


def _meets(offer: _Offer, resting_ticks: int) -> bool:
    if offer.side is Side.BUY:
        return offer.price_ticks >= resting_ticks
    return offer.price_ticks <= resting_ticks
