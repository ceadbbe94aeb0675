"""I1: every accepted order reaches exactly one terminal state, along a legal path."""

from collections.abc import Iterator

from checker.findings import Findings
from checker.history import Slice, Trace, Traces, ends
from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
    Event,
    Logged,
    Order,
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderRiskRejected,
    Origin,
    Report,
    TradeExecuted,
    VenueRejected,
)

I1 = "I1"
DUPLICATE = "duplicate_order_id"


def check_lives(history: Slice, traces: Traces) -> Findings:
    """Walk the path of each order: one risk decision, one of compliance, acknowledgement, fills, one end.

    In a quiet history an order without a decision is lost, and when all has ended one without an end, unless
    it is stuck behind a dead letter.
    """
    found = Findings()
    _unreadable(history, found)
    for trace in traces:
        for message in _faults(trace, history):
            found.violate(I1, message, trace.order_id)
        _repeats(trace, history, found)
    _sequences(history, traces, found)
    return found


def _unreadable(history: Slice, found: Findings) -> None:
    for topic in (RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS):
        for record in history.topic(topic):
            if record.event is None and record.sound:
                origin = Origin(topic, history.partition, record.offset)
                found.violate(I1, "an output that nobody can read", origin)


def _faults(trace: Trace, history: Slice) -> Iterator[str]:
    order = trace.order
    if order is None:
        if trace.approvals or trace.refusals or trace.stray_refusals or trace.compliance or trace.reports:
            yield "something was decided or executed for an order that nobody has sent"
        return
    yield from _risk_faults(trace, order)
    yield from _compliance_faults(trace, order)
    yield from _venue_faults(trace, order)
    if history.quiet and not trace.stuck:
        yield from _missing(trace, history.ended)


def _risk_faults(trace: Trace, order: Order) -> Iterator[str]:
    if len(trace.approvals) + len(trace.refusals) > 1:
        yield "risk has decided an order more than once"
    if trace.stray_refusals:
        yield "a refusal names a source that is no record of its order"
    for decision in trace.approvals + trace.refusals:
        if decision.event is not None and decision.event.order != order:
            yield "risk has decided on other terms than those received"
        yield from _wrong_key(decision, order)


def _compliance_faults(trace: Trace, order: Order) -> Iterator[str]:
    if trace.compliance and not trace.approvals:
        yield "compliance has decided an order that risk has not approved"
    if len(trace.compliance) > 1:
        yield "compliance has decided an order more than once"
    for decision in trace.compliance:
        if decision.event is not None and decision.event.order != order:
            yield "compliance has decided on other terms than those received"
        yield from _wrong_key(decision, order)


def _wrong_key(record: Logged[Event], order: Order) -> Iterator[str]:
    if record.key != order.account_id.encode():
        yield "an event of an order does not have its account as key"


def _venue_faults(trace: Trace, order: Order) -> Iterator[str]:
    if not trace.reports:
        return
    if not trace.compliance_approved:
        yield "the venue reports an order that compliance has not approved"
    if trace.compliance_rejected:
        yield "the venue reports an order that compliance has refused"
    path = _Path(order)
    for report in trace.reports:
        if report.event is not None:
            yield from path.step(report.event)
            yield from _wrong_key(report, order)


class _Path:
    """What the venue may report next of one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._leaves_lots = order.quantity_lots
        self._acknowledged = False
        self._ended = False

    def step(self, report: Report) -> Iterator[str]:
        if self._ended:
            yield "a report after the order's end"
        if (report.account_id, report.symbol, report.side) != (
            self._order.account_id,
            self._order.symbol,
            self._order.side,
        ):
            yield "a report names another account, symbol or side than its order"
        match report:
            case OrderAcknowledged():
                yield from self._acknowledge()
            case VenueRejected(rejected_lots=lots):
                yield from self._refuse(lots)
            case TradeExecuted():
                yield from self._fill(report)
            case OrderCancelled(cancelled_lots=lots) | OrderExpired(expired_lots=lots):
                yield from self._end(lots)
        self._ended = self._ended or ends(report)

    def _acknowledge(self) -> Iterator[str]:
        if self._acknowledged:
            yield "an order was acknowledged more than once"
        self._acknowledged = True

    def _refuse(self, lots: int) -> Iterator[str]:
        if self._leaves_lots != self._order.quantity_lots:
            yield "the venue has refused an order after filling some of it"
        if lots != self._order.quantity_lots:
            yield "the venue has refused another quantity than was ordered"

    def _fill(self, trade: TradeExecuted) -> Iterator[str]:
        if not self._acknowledged:
            yield "a fill before the acknowledgement"
        leaves_lots = self._leaves_lots - trade.quantity_lots
        if trade.quantity_lots <= 0 or trade.leaves_lots != leaves_lots or leaves_lots < 0:
            yield "the leaves_lots of a fill do not follow from those before"
        self._leaves_lots = trade.leaves_lots
        worse = trade.price_ticks - self._order.price_ticks
        if (worse if self._order.side == "buy" else -worse) > 0:
            yield "a fill at a worse price than the limit"

    def _end(self, lots: int) -> Iterator[str]:
        if not self._acknowledged:
            yield "an order ended at the venue before its acknowledgement"
        if lots != self._leaves_lots:
            yield "an order ended with another quantity than was open"


def _missing(trace: Trace, ended: bool) -> Iterator[str]:
    if trace.ended:
        return
    if not trace.approvals:
        yield "an order was never decided by risk"
    elif not trace.compliance:
        yield "an approved order was never decided by compliance"
    elif not ended:
        return
    elif not trace.reports:
        yield "an order that may go out was never reported by the venue"
    else:
        yield "an order has no terminal state"


def _repeats(trace: Trace, history: Slice, found: Findings) -> None:
    """Each record that repeats an order id has its own refusal, and that only for being a repeat."""
    if not trace.repeats and not trace.repeat_refusals:
        return
    refusals: dict[str, list[OrderRiskRejected]] = {}
    for refusal in trace.repeat_refusals:
        assert isinstance(refusal.event, OrderRiskRejected)
        refusals.setdefault(refusal.event.source, []).append(refusal.event)
    for record in trace.repeats:
        source = str(Origin(ORDERS, history.partition, record.offset))
        given = refusals.get(source, [])
        if len(given) > 1 or (history.quiet and not given):
            found.violate(I1, "a repeated order does not have exactly one refusal", source)
        if any(refusal.reason != DUPLICATE for refusal in given):
            found.violate(I1, "a repeated order was refused for another reason than being one", source)
        if any(refusal.order != record.event for refusal in given):
            found.violate(I1, "risk has decided on other terms than those received", source)


def _sequences(history: Slice, traces: Traces, found: Findings) -> None:
    """A record whose sequence is not above the account's last is refused as a repeat, and no other is."""
    last: dict[str, int] = {}
    for decision in history.risk:
        if decision.event is None:
            continue
        order = decision.event.order
        refused = isinstance(decision.event, OrderRiskRejected) and decision.event.reason == DUPLICATE
        repeated = order.account_id in last and order.sequence <= last[order.account_id]
        if repeated and not refused:
            found.violate(
                I1, "a sequence that is not above the account's last was not refused", order.order_id
            )
        if refused and not repeated:
            found.violate(I1, "an order was refused as a repeat, but its sequence is new", order.order_id)
        if not repeated:
            last[order.account_id] = order.sequence
