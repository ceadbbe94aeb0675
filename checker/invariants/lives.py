"""I1: every accepted order reaches exactly one terminal state, along a legal path."""

from collections.abc import Iterator, Sequence

from checker.findings import Findings
from checker.history import Slice, Trace, Traces, ends
from checker.invariants.sequences import check_sequences
from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
    Event,
    Execution,
    Logged,
    Order,
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderReplaced,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    Origin,
    ReplaceComplianceApproved,
    TradeExecuted,
    VenueRejected,
)
from checker.reference import Reference
from checker.requests import Asking

I1 = "I1"


def check_lives(history: Slice, traces: Traces, reference: Reference) -> Findings:
    """Walk the path of each order: one risk decision, one of compliance, acknowledgement, fills, one end.

    Or none of the venue's: an order that was withheld has ended without it. A replace changes its quantity
    and price on the way; a request that is refused does nothing to it. In a quiet history an order without a
    decision is lost, and when all has ended one without an end, unless it is stuck behind a dead letter.
    """
    found = Findings()
    _unreadable(history, found)
    for trace in traces:
        for message in _faults(trace, history, traces):
            found.violate(I1, message, trace.order_id)
        _repeats(trace, history, found)
    return found.add([check_sequences(history, reference)])


def _unreadable(history: Slice, found: Findings) -> None:
    for topic in (RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS):
        for record in history.topic(topic):
            if record.event is None and record.sound:
                origin = Origin(topic, history.partition, record.offset)
                found.violate(I1, "an output that nobody can read", origin)


def _faults(trace: Trace, history: Slice, traces: Traces) -> Iterator[str]:
    order = trace.order
    if order is None:
        if trace.approvals or trace.refusals or trace.stray_refusals or trace.compliance or trace.executions:
            yield "something was decided or executed for an order that nobody has sent"
        return
    yield from _risk_faults(trace, order)
    yield from _compliance_faults(trace, order)
    yield from _venue_faults(trace, order, traces.requests.of(trace.order_id))
    if history.quiet and not trace.stuck:
        yield from _missing(trace, history.ended)


def _risk_faults(trace: Trace, order: Order) -> Iterator[str]:
    if len(trace.approvals) + len(trace.refusals) > 1:
        yield "risk has decided an order more than once"
    if trace.stray_refusals:
        yield "a refusal names a source that is no record of its order"
    if trace.approvals and trace.received is not None and trace.received.unknown:
        yield "an order with fields that nobody knows was approved"
    for decision in trace.approvals + trace.refusals:
        if decision.event is not None and decision.event.order != order:
            yield "risk has decided on other terms than those received"
        if isinstance(decision.event, OrderRiskApproved) and not _is_timely(decision.event, trace):
            yield "an approval names another time of receipt than its order's"
        yield from _wrong_key(decision, order)


def _is_timely(approval: OrderRiskApproved, trace: Trace) -> bool:
    """Whether it was received when it says; a release that did not tell says 0."""
    received = trace.received
    return not approval.received_at_ms or received is None or approval.received_at_ms == received.timestamp_ms


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


def _venue_faults(trace: Trace, order: Order, asked: Sequence[Asking]) -> Iterator[str]:
    if trace.withheld and not trace.compliance_approved:
        yield "an order was withheld that compliance has not approved"
    if trace.reports and not trace.compliance_approved:
        yield "the venue reports an order that compliance has not approved"
    if trace.reports and trace.compliance_rejected:
        yield "the venue reports an order that compliance has refused"
    path = Path(order, asked)
    for record in trace.executions:
        if record.event is not None:
            yield from path.step(record.event)
            yield from _wrong_key(record, order)


class Path:
    """What may happen next to one order at the venue, or instead of it; `asked` are its requests."""

    def __init__(self, order: Order, asked: Sequence[Asking] = ()) -> None:
        self._order = order
        self._asked = asked
        self._quantity_lots = order.quantity_lots
        self._price_ticks = order.price_ticks
        self._leaves_lots = order.quantity_lots
        self._acknowledged = False
        self._begun = False
        self._ended = False

    def step(self, report: Execution) -> Iterator[str]:
        """Take the next execution in; yields what is wrong with it."""
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
            case OrderReplaced():
                yield from self._replace(report)
            case OrderCancelled(cancelled_lots=lots) | OrderExpired(expired_lots=lots):
                yield from self._end(lots)
            case OrderWithheld(withheld_lots=lots):
                yield from self._withhold(lots)
        self._begun = True
        self._ended = self._ended or ends(report)

    def _withhold(self, lots: int) -> Iterator[str]:
        if self._begun:
            yield "an order was withheld that the venue has reported"
        if lots != self._order.quantity_lots:
            yield "another quantity was withheld than was ordered"

    def _acknowledge(self) -> Iterator[str]:
        if self._acknowledged:
            yield "an order was acknowledged more than once"
        self._acknowledged = True

    def _refuse(self, lots: int) -> Iterator[str]:
        if self._leaves_lots != self._quantity_lots:
            yield "the venue has refused an order after filling some of it"
        if lots != self._quantity_lots:
            yield "the venue has refused another quantity than was ordered"

    def _fill(self, trade: TradeExecuted) -> Iterator[str]:
        if not self._acknowledged:
            yield "a fill before the acknowledgement"
        leaves_lots = self._leaves_lots - trade.quantity_lots
        if trade.quantity_lots <= 0 or trade.leaves_lots != leaves_lots or leaves_lots < 0:
            yield "the leaves_lots of a fill do not follow from those before"
        self._leaves_lots = trade.leaves_lots
        worse = trade.price_ticks - self._price_ticks
        if (worse if self._order.side == "buy" else -worse) > 0:
            yield "a fill at a worse price than the limit"

    def _replace(self, report: OrderReplaced) -> Iterator[str]:
        if not self._acknowledged:
            yield "an order was replaced before its acknowledgement"
        filled_lots = self._quantity_lots - self._leaves_lots
        if report.quantity_lots - report.leaves_lots != filled_lots or report.leaves_lots < 0:
            yield "the leaves_lots of a replace do not follow from those before"
        passed = (each.passed for each in self._asked if each.venue_id == report.request_id)
        wanted = next((each.request for each in passed if isinstance(each, ReplaceComplianceApproved)), None)
        if wanted is not None and (report.quantity_lots, report.price_ticks) != (
            max(wanted.quantity_lots, filled_lots),
            wanted.price_ticks,
        ):
            yield "an order was replaced on other terms than asked for"
        self._quantity_lots, self._price_ticks = report.quantity_lots, report.price_ticks
        self._leaves_lots = report.leaves_lots

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
    elif not trace.executions:
        yield "an order that may go out was never reported by the venue"
    else:
        yield "an order has no terminal state"


def _repeats(trace: Trace, history: Slice, found: Findings) -> None:
    """Each other record with an order's id has its own refusal."""
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
        if any(refusal.order != record.event for refusal in given):
            found.violate(I1, "risk has decided on other terms than those received", source)
