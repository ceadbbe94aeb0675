"""I2: the venue's ledger and the executions are a bijection; filled <= ordered; nothing was sent twice."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from checker.findings import Findings
from checker.history import Slice, Traces
from checker.ledger import LedgerOrder, LedgerReport, LedgerTrade, SessionLedger
from checker.records import Logged, Order, OrderComplianceApproved, Report, TradeExecuted

I2 = "I2"


def check_venue(history: Slice, traces: Traces, ledger: SessionLedger) -> Findings:
    """Compare one session of the ledger with the partition of the same number, field by field.

    The ledger's orders are read before the log and its reports and trades after it: until all has ended,
    reports above the log's last one are still on their way.
    """
    found = Findings()
    _check_orders(history, traces, ledger.orders, found)
    seen = _check_reports(history, ledger.reports, found)
    _check_trades(history, ledger.trades, seen, found)
    return found


def _check_orders(history: Slice, traces: Traces, orders: Iterable[LedgerOrder], found: Findings) -> None:
    known = set()
    for order in orders:
        known.add(order.client_order_id)
        if order.receipts != 1:
            found.violate(I2, "an order was sent to the venue more than once", order.client_order_id)
        if order.filled_lots > order.quantity_lots:
            found.violate(I2, "more was filled than ordered", order.client_order_id)
        trace = traces.get(order.client_order_id)
        if trace is None or not trace.compliance_approved:
            found.violate(
                I2, "the venue has an order that compliance has not approved", order.client_order_id
            )
            continue
        approved = [
            each.event for each in trace.compliance if isinstance(each.event, OrderComplianceApproved)
        ]
        if any(terms(each.order) != order.terms for each in approved):
            found.violate(I2, "the venue has an order on other terms than approved", order.client_order_id)
        if history.ended and trace.filled_lots != order.filled_lots:
            found.violate(
                I2, "the ledger's filled_lots are not those of the executions", order.client_order_id
            )
    if history.ended:
        for trace in traces:
            if trace.compliance_approved and not trace.stuck and trace.order_id not in known:
                found.violate(I2, "an order that may go out is not in the venue's ledger", trace.order_id)


def terms(order: Order) -> tuple[str, str, str, int, int, str]:
    """What the venue gets of an order, besides its id."""
    return (
        order.account_id,
        order.symbol,
        order.side.value,
        order.quantity_lots,
        order.price_ticks,
        order.time_in_force.value,
    )


class _Seen(NamedTuple):
    """What was read of executions: `last` is the highest venue_sequence among them."""

    last: int
    trades: dict[str, TradeExecuted]


def _check_reports(history: Slice, reports: Iterable[LedgerReport], found: Findings) -> _Seen:
    executions, seen = _by_sequence(history, found)
    before = 0
    for sequence, event in reports:
        identity = f"{history.partition}/{sequence}"
        if sequence != before + 1:
            found.violate(I2, "the ledger's reports of a session have a gap", identity)
        before = sequence
        executed = executions.pop(sequence, None)
        if executed is None:
            if history.ended or sequence < seen.last:
                found.violate(I2, "a report of the venue is not in executions", identity)
        elif executed.event != event:
            found.violate(I2, "an execution differs from the venue's report", identity)
    for sequence in executions:
        found.violate(I2, "an execution that the venue has never reported", f"{history.partition}/{sequence}")
    return seen


def _by_sequence(history: Slice, found: Findings) -> tuple[dict[int, Logged[Report]], _Seen]:
    executions: dict[int, Logged[Report]] = {}
    trades: dict[str, TradeExecuted] = {}
    last = 0
    for record in history.executions:
        report = record.event
        if report is None:
            continue
        identity = f"{history.partition}/{report.venue_sequence}"
        if report.venue_sequence in executions:
            found.violate(I2, "a report of the venue is in executions more than once", identity)
        executions[report.venue_sequence] = record
        if report.venue_sequence < last:
            found.violate(I2, "executions are not in the order of the venue's reports", identity)
        last = max(last, report.venue_sequence)
        if isinstance(report, TradeExecuted):
            if report.trade_id in trades:
                found.violate(I2, "a trade is in executions more than once", report.trade_id)
            trades[report.trade_id] = report
    return executions, _Seen(last, trades)


def _check_trades(
    history: Slice, trades: Sequence[LedgerTrade] | Iterable[LedgerTrade], seen: _Seen, found: Findings
) -> None:
    executed = dict(seen.trades)
    for trade in trades:
        event = executed.pop(trade.trade_id, None)
        if event is None:
            if history.ended or trade.venue_sequence <= seen.last:
                found.violate(I2, "a trade of the venue is not in executions", trade.trade_id)
            continue
        fields = (event.order_id, event.quantity_lots, event.price_ticks, event.venue_sequence)
        if fields != (trade.client_order_id, trade.quantity_lots, trade.price_ticks, trade.venue_sequence):
            found.violate(I2, "an executed trade differs from the venue's", trade.trade_id)
    for trade_id in executed:
        found.violate(I2, "an executed trade that the venue does not have", trade_id)
