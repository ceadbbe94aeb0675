"""I2: the venue's ledger and the executions are a bijection; filled <= ordered; nothing was sent twice.

A report that the exchange could not use is a dead letter instead of an execution; only one that no legal life
of its order explains may be. An order or a replace that was withheld the venue has never seen. The ledger has
an order as approved, or as the venue's last report of a replace made it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from checker.findings import Findings
from checker.history import Slice, Traces, reported_id
from checker.invariants.asked import fits
from checker.invariants.lives import Path
from checker.ledger import LedgerOrder, LedgerReport, LedgerRequest, LedgerTrade, PartLedger
from checker.records import (
    CancelAccepted,
    Logged,
    Order,
    OrderCancelled,
    OrderComplianceApproved,
    OrderReplaced,
    OrderWithheld,
    Refusal,
    ReplaceWithheld,
    RequestPassed,
    TradeExecuted,
    VenueLetter,
    VenueReport,
)
from checker.requests import Answer, Asking, answered_id
from checker.shards import KEY_SHARDS, shard_of

I2 = "I2"

TERMS = LedgerTrade._fields[-6:]
NO_TERMS = (None,) * len(TERMS)

Number = tuple[int, int]
"""The session of a report, and its sequence there."""


def check_venue(history: Slice, traces: Traces, ledger: PartLedger) -> Findings:
    """Compare the sessions of one partition with the executions on it, field by field.

    The ledger's orders are read before the log and its reports and trades after it: until all has ended,
    reports above a session's last one in the log are still on their way. Once a report of an order is a dead
    letter the order is disputed, and so are all its later ones.
    """
    found = Findings()
    changed = _check_orders(history, traces, ledger.orders, found)
    _check_asked(history, traces, ledger.requests, found)
    seen = _see(history, found)
    reports = _without_gaps(ledger.reports, ledger.numbered_before, found)
    _check_reports(history, traces, changed.looking_at(reports), seen, found)
    changed.check(found, ended=history.ended)
    _check_trades(history, ledger.trades, seen, found)
    return found


def check_sessions(sessions: Iterable[int]) -> Findings:
    """The ledger has no session that is no key shard."""
    found = Findings()
    for number in sessions:
        if not 0 <= number < KEY_SHARDS:
            found.violate(I2, "the venue has a session that is no key shard", number)
    return found


class _Changed:
    """Orders of the ledger whose terms are not those that were approved: a replace must have made them so.

    The reports are read behind the orders. So the reports of a moving history have every replace that an
    order's row has, and may have later ones.
    """

    def __init__(self) -> None:
        self._terms: dict[str, tuple[int, int]] = {}
        self._approved: dict[str, tuple[int, int]] = {}
        self._reported: dict[str, list[tuple[int, int]]] = {}

    def add(self, order: LedgerOrder, approved: Order) -> None:
        self._terms[order.client_order_id] = order.terms
        self._approved[order.client_order_id] = (approved.quantity_lots, approved.price_ticks)

    def looking_at(self, reports: Iterable[LedgerReport]) -> Iterator[LedgerReport]:
        """Pass the reports on, and note the replaces among them."""
        for report in reports:
            if isinstance(report.event, OrderReplaced):
                terms = (report.event.quantity_lots, report.event.price_ticks)
                self._reported.setdefault(report.event.order_id, []).append(terms)
            yield report

    def check(self, found: Findings, *, ended: bool) -> None:
        for order_id, terms in self._terms.items():
            possible = [self._approved[order_id], *self._reported.get(order_id, ())]
            if terms not in (possible[-1:] if ended else possible):
                message = "the venue has an order on other terms than approved and replaced"
                found.violate(I2, message, order_id)


def _check_orders(history: Slice, traces: Traces, orders: Iterable[LedgerOrder], found: Findings) -> _Changed:
    known, changed = set(), _Changed()
    for order in orders:
        known.add(order.client_order_id)
        for message in _order_faults(order, traces, ended=history.ended):
            found.violate(I2, message, order.client_order_id)
        approved = _approved(order.client_order_id, traces)
        if approved is not None and _is_changed(order, approved, traces):
            changed.add(order, approved)
    if history.ended:
        for trace in traces:
            may_go = trace.compliance_approved and not trace.stuck and not trace.withheld
            if may_go and trace.order_id not in known:
                found.violate(I2, "an order that may go out is not in the venue's ledger", trace.order_id)
    return changed


def _approved(order_id: str, traces: Traces) -> Order | None:
    """An order as compliance has approved it."""
    trace = traces.get(order_id)
    decisions = trace.compliance if trace is not None else ()
    approved = (each.event for each in decisions if isinstance(each.event, OrderComplianceApproved))
    return next((each.order for each in approved), None)


def _is_changed(order: LedgerOrder, approved: Order, traces: Traces) -> bool:
    """Whether its terms are others, or should be."""
    return order.terms != (approved.quantity_lots, approved.price_ticks) or bool(
        traces.requests.of(order.client_order_id)
    )


def _order_faults(order: LedgerOrder, traces: Traces, *, ended: bool) -> Iterator[str]:
    if order.receipts != 1:
        yield "an order was sent to the venue more than once"
    if order.filled_lots > order.quantity_lots:
        yield "more was filled than ordered"
    if order.session != shard_of(order.account_id.encode()):
        yield "an order was sent on a session that is not its account's key shard"
    trace = traces.get(order.client_order_id)
    if trace is None or not trace.compliance_approved:
        yield "the venue has an order that compliance has not approved"
        return
    if trace.withheld:
        yield "the venue has an order that was withheld"
    approved = [each.event for each in trace.compliance if isinstance(each.event, OrderComplianceApproved)]
    if any(subject(each.order) != order.subject for each in approved):
        yield "the venue has an order of another account, symbol, side or time in force than approved"
    if ended and not trace.stuck and trace.filled_lots != order.filled_lots:
        yield "the ledger's filled_lots are not those of the executions"


def subject(order: Order) -> tuple[str, str, str, str]:
    """What the venue gets of an order that no replace changes, besides its id."""
    return order.account_id, order.symbol, order.side.value, order.time_in_force.value


def _check_asked(history: Slice, traces: Traces, requests: Iterable[LedgerRequest], found: Findings) -> None:
    known = set()
    for request in requests:
        known.add(request.request_id)
        for message in _request_faults(request, traces):
            found.violate(I2, message, request.request_id)
    for asking in traces.requests if history.ended else ():
        may_have_gone = asking.passed is not None and not asking.stuck and not asking.is_withheld
        if may_have_gone and asking.venue_id not in known:
            message = "a request that may go out is not in the venue's ledger"
            found.violate(I2, message, asking.venue_id)


def _request_faults(request: LedgerRequest, traces: Traces) -> Iterator[str]:
    if request.receipts != 1:
        yield "a request was sent to the venue more than once"
    if request.session != shard_of(request.account_id.encode()):
        yield "a request was sent on a session that is not its account's key shard"
    asking = traces.requests.get(request.request_id)
    passed = asking.passed if asking is not None else None
    if asking is None or passed is None:
        yield "the venue has a request that compliance has not let through"
        return
    if asking.is_withheld:
        yield "the venue has a request that was withheld"
    if request.asked != _asked(passed):
        yield "the venue has a request on other terms than let through"
    outcomes = {outcome for each in asking.answers if (outcome := _outcome(each.event)) is not None}
    if outcomes - {request.outcome}:
        yield "the outcome of a request in the ledger is not its answer in executions"


def _asked(passed: RequestPassed) -> tuple[str, str, str, int | None, int | None]:
    request = passed.request
    if isinstance(passed, CancelAccepted):
        return request.account_id, request.order_id, "cancel", None, None
    terms = (passed.request.quantity_lots, passed.request.price_ticks)
    return request.account_id, request.order_id, "replace", *terms


def _outcome(answer: Answer | None) -> str | None:
    """What the ledger calls an answer; None where the venue has not given it."""
    match answer:
        case OrderCancelled():
            return "cancelled"
        case OrderReplaced():
            return "replaced"
        case None | OrderWithheld() | ReplaceWithheld():
            return None
    return answer.reason


class _Seen(NamedTuple):
    """What executions and dead letters have; `last` is the highest sequence of each session there."""

    executions: dict[Number, Logged[VenueReport]]
    buried: dict[Number, VenueLetter]
    last: dict[int, int]
    trades: dict[str, tuple[int, TradeExecuted]]


def _see(history: Slice, found: Findings) -> _Seen:
    seen = _Seen({}, {}, {}, {})
    for record in history.executions:
        report = record.event
        if not isinstance(report, VenueReport):
            continue
        shard, sequence = shard_of(report.account_id.encode()), report.venue_sequence
        identity = f"{shard}/{sequence}"
        if (shard, sequence) in seen.executions:
            found.violate(I2, "a report of the venue is in executions more than once", identity)
        seen.executions[shard, sequence] = record  # type: ignore[assignment]
        if sequence < seen.last.get(shard, 0):
            found.violate(I2, "executions are not in the order of the venue's reports", identity)
        seen.last[shard] = max(sequence, seen.last.get(shard, 0))
        if isinstance(report, TradeExecuted):
            if report.trade_id in seen.trades:
                found.violate(I2, "a trade is in executions more than once", report.trade_id)
            seen.trades[report.trade_id] = (shard, report)
    for letter in history.venue_letters:
        number = (letter.shard, letter.sequence)
        if number in seen.buried or number in seen.executions:
            found.violate(I2, "a report is a dead letter and something else as well", _named(number))
        seen.buried[number] = letter
        seen.last[letter.shard] = max(letter.sequence, seen.last.get(letter.shard, 0))
    return seen


def _named(number: Number) -> str:
    return f"{number[0]}/{number[1]}"


def _without_gaps(
    reports: Iterable[LedgerReport], numbered_before: int, found: Findings
) -> Iterator[LedgerReport]:
    """Pass the reports on, and look for numbers that none of them has.

    Up to `numbered_before` the sessions of the partition were numbered as one; all of them go on behind it.
    """
    last: dict[int, int] = {}
    together: set[int] = set()
    for report in reports:
        session, sequence, _ = report
        if sequence <= numbered_before:
            together.add(sequence)
        elif sequence != max(last.get(session, 0), numbered_before) + 1:
            found.violate(I2, "the ledger's reports of a session have a gap", _named((session, sequence)))
        last[session] = sequence
        yield report
    if len(together) != max(together, default=0):
        found.violate(I2, "the ledger's reports of a partition have a gap", str(max(together)))


def _check_reports(
    history: Slice, traces: Traces, reports: Iterable[LedgerReport], seen: _Seen, found: Findings
) -> None:
    executions, buried = dict(seen.executions), dict(seen.buried)
    disputed: set[str] = set()
    unclear: set[str] = set()
    for session, sequence, event in reports:
        number = (session, sequence)
        executed = executions.pop(number, None)
        if letter := buried.pop(number, None):
            if event is None:
                unclear.add(reported_id(letter) or "")
            elif event.order_id not in disputed | unclear and _fits(event, number, traces):
                found.violate(I2, "a report that fits its order is a dead letter", _named(number))
            elif isinstance(event, Refusal):
                unclear.add(event.order_id)  # of an order that has ended, it disputes nothing
            else:
                disputed.add(event.order_id)
        elif executed is None:
            if history.ended or sequence < seen.last.get(session, 0):
                found.violate(I2, "a report of the venue is not in executions", _named(number))
        elif executed.event != event:
            if _is_without_terms(executed.event, event):
                found.skip(I2, "an execution of a release that knew no terms of trades", _named(number))
            else:
                found.violate(I2, "an execution differs from the venue's report", _named(number))
        elif event is not None and event.order_id in disputed:
            found.violate(
                I2, "a report was booked behind one of its order that is a dead letter", _named(number)
            )
    for number in executions:
        found.violate(I2, "an execution that the venue has never reported", _named(number))
    for number in buried:
        found.violate(I2, "a dead letter of a report that the venue has never made", _named(number))


def _is_without_terms(executed: VenueReport | None, event: VenueReport | None) -> bool:
    """Whether a release that did not know a trade's terms has booked it: all else has to be the report's."""
    if not isinstance(executed, TradeExecuted) or not isinstance(event, TradeExecuted):
        return False
    return executed.terms == NO_TERMS and executed == replace(event, **dict.fromkeys(TERMS))


def _fits(event: VenueReport, number: Number, traces: Traces) -> bool:
    """Whether a report is the next step of its order's legal life, or answers its request, on its session."""
    if shard_of(event.account_id.encode()) != number[0] or not _may_answer(event, number, traces):
        return False
    if isinstance(event, Refusal):
        return True
    trace = traces.get(event.order_id)
    if trace is None or trace.order is None or not trace.compliance_approved:
        return False
    path = Path(trace.order, traces.requests.of(event.order_id))
    for record in trace.executions:
        before = record.event
        is_earlier = not isinstance(before, VenueReport) or before.venue_sequence < number[1]
        if before is not None and is_earlier and any(True for _ in path.step(before)):
            return False
    return not any(True for _ in path.step(event))


def _may_answer(event: VenueReport, number: Number, traces: Traces) -> bool:
    """Whether the request that a report names, if any, is one that waits for it."""
    venue_id = answered_id(event)
    if venue_id is None:
        return True
    asking = traces.requests.get(venue_id)
    if asking is None or asking.let is None or asking.passed is None or not isinstance(event, Answer):
        return False
    return fits(event, asking.let) and not _was_answered(asking, number)


def _was_answered(asking: Asking, number: Number) -> bool:
    return any(
        not isinstance(each.event, VenueReport) or each.event.venue_sequence < number[1]
        for each in asking.answers
    )


def _check_trades(history: Slice, trades: Iterable[LedgerTrade], seen: _Seen, found: Findings) -> None:
    executed = dict(seen.trades)
    for trade in trades:
        number = (trade.session, trade.venue_sequence)
        shard, event = executed.pop(trade.trade_id, (0, None))
        if event is None:
            is_due = history.ended or trade.venue_sequence <= seen.last.get(trade.session, 0)
            if is_due and number not in seen.buried:
                found.violate(I2, "a trade of the venue is not in executions", trade.trade_id)
            continue
        fields = (event.order_id, event.quantity_lots, event.price_ticks, shard, event.venue_sequence)
        if fields != trade[1:6] or event.terms not in (trade[6:], NO_TERMS):
            found.violate(I2, "an executed trade differs from the venue's", trade.trade_id)
    for trade_id in executed:
        found.violate(I2, "an executed trade that the venue does not have", trade_id)
