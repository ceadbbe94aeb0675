"""I7, for compliance: no order is let through that meets an own resting one, or repeats one just sent.

What compliance has approved it knows, so its approvals alone tell which orders it has seen of late; how late,
the broker's clock tells, by which they were received. When an order has ended it learns later: one whose end
is logged after a decision was open when that was made.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checker.findings import Findings
from checker.history import Slice, Traces, ends
from checker.records import Order, OrderComplianceApproved
from models.values import Side, TimeInForce

I7 = "I7"
REPEAT_WITHIN_MS = 1_000
RECENT_KINDS_MAX = 64

Kind = tuple[str, Side, int, int]


class _Recent(NamedTuple):
    """An approved order, and when it was received."""

    order_id: str
    received_at_ms: int


def check_conduct(history: Slice, traces: Traces) -> Findings:
    """Replay what compliance has approved, account by account, in log order."""
    found = Findings()
    recent: dict[str, dict[Kind, _Recent]] = {}
    resting: dict[str, list[Order]] = {}
    for decision in history.compliance:
        if not isinstance(decision.event, OrderComplianceApproved):
            continue
        order = decision.event.order
        account = order.account_id
        received_at_ms = _received_at_ms(order, traces)
        if received_at_ms is not None and _is_repeat(order, received_at_ms, recent.setdefault(account, {})):
            found.violate(I7, "an order was approved that repeats one of the last second", order.order_id)
        if history.quiet:  # else an end may be known that is not here
            open_still = list(_open_at(decision.timestamp_ms, resting.get(account, ()), traces))
            if any(_meets(order, other) for other in open_still):
                found.violate(I7, "an order was approved that meets an own resting one", order.order_id)
            rests = order.time_in_force is not TimeInForce.IOC
            resting[account] = [*open_still, order] if rests else open_still
    return found


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


def _open_at(timestamp_ms: int, orders: Sequence[Order], traces: Traces) -> Iterator[Order]:
    for order in orders:
        trace = traces.get(order.order_id)
        reports = trace.executions if trace else []
        if not any(ends(each.event) and each.timestamp_ms <= timestamp_ms for each in reports):
            yield order


def _meets(order: Order, resting: Order) -> bool:
    if resting.symbol != order.symbol or resting.side is order.side:
        return False
    buy, sell = (order, resting) if order.side is Side.BUY else (resting, order)
    return buy.price_ticks >= sell.price_ticks
